"""`onnxfq evaluate` as a whole: what it recognises, refuses, prints, and exits with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import onnxfq
from onnxfq import DataError, Evaluation, GateError, ModelError, UsageError
from onnxfq.cli import run
from onnxfq.feeds.model_kind import recognize
from onnxfq.signature import Signature, TensorSpec
from support.evaluated import SIZE, bigram, encoder, table, words, write_graph, write_lines, write_tokenizer

ROOT = Path(__file__).resolve().parents[2]
OPT = ROOT / "models" / "opt-4m"

Output = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where new.onnx and old.onnx are, language models, with text.txt and last.jsonl."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    write_tokenizer(tmp_path)
    bigram(tmp_path / "new.onnx", table(noise=0.2))
    bigram(tmp_path / "old.onnx", table())
    (tmp_path / "text.txt").write_text(words(100))
    write_lines(tmp_path / "last.jsonl", {"text": "w1 w2"}, {"text": "w3 w4 w5"})
    return tmp_path


def evaluate(*arguments: str | Path) -> int:
    """`onnxfq evaluate …` in this process; returns the exit code."""
    return run(["evaluate", *map(str, arguments)])


ALL = ["new.onnx", "--baseline", "old.onnx", "--text", "text.txt", "--data", "last.jsonl", "--seq-len", "8"]


def test_figures_are_printed_on_stdout(folder: Path, capsys: Output) -> None:
    assert evaluate(*ALL) == 0
    out = capsys.readouterr().out
    for word in ("perplexity", "±", "kl p999", "lambada accuracy", "language against old.onnx"):
        assert word in out


def test_json_is_one_object_on_stdout(folder: Path, capsys: Output) -> None:
    assert evaluate(*ALL, "--json", "--max-kl", "9", "--samples", "1") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["version"] == 2
    keys = "version onnxfq onnxruntime model baseline task provider settings metrics outputs gates warnings"
    assert list(told) == keys.split()
    found = onnxfq.evaluate("new.onnx", "old.onnx", text="text.txt", data="last.jsonl", seq_len=8, samples=1, max_kl=9)
    assert told == json.loads(json.dumps(found.to_json()))
    assert told["metrics"][0]["samples"] == 1
    assert (told["gates"][0]["name"], told["gates"][0]["passed"]) == ("max-kl", True)
    assert told["settings"] == {
        "text": "text.txt", "data": "last.jsonl", "tokenizer": ".", "seq_len": 8, "samples": 1
    }  # fmt: skip


def test_warnings_name_options_for_people_and_settings_in_json(folder: Path, capsys: Output) -> None:
    alone = ("new.onnx", "--text", "text.txt", "--seq-len", "8")
    assert evaluate(*alone) == 0
    assert "Note: Compared with nothing: name the model before quantization with --baseline." in capsys.readouterr().err
    assert evaluate(*alone, "--json") == 0
    assert json.loads(capsys.readouterr().out)["warnings"][0].endswith("with `baseline`.")


def test_json_holds_no_nan(folder: Path, capsys: Output) -> None:
    bigram(folder / "new.onnx", np.full((SIZE, SIZE), np.nan, np.float32))
    assert evaluate(*ALL, "--json") == 0
    out = capsys.readouterr().out
    metrics = json.loads(out, parse_constant=lambda name: pytest.fail(name))["metrics"]
    assert {metric["value"] for metric in metrics} == {None}
    assert all("NaN" in metric["note"] for metric in metrics)
    assert evaluate(*ALL) == 0
    assert "samples gave NaN or infinity" in capsys.readouterr().out


GATES = {
    "--max-ppl-increase 1%": 0,
    "--max-ppl-increase 9 --max-kl 9": 0,
    "--max-kl 1e-9": 1,
    "--max-ppl-increase 9 --max-kl 0": 1,
}


@pytest.mark.parametrize(("gates", "code"), GATES.items())
def test_a_failed_gate_exits_with_1_and_is_named(folder: Path, capsys: Output, gates: str, code: int) -> None:
    assert evaluate(*ALL, *gates.split()) == code
    err = capsys.readouterr().err
    assert ("a gate does not hold: " in err) is (code == 1)
    assert ("failed" in err) is (code == 1)


def test_a_failed_gate_raises_where_it_is_required(folder: Path) -> None:
    found = onnxfq.evaluate("new.onnx", "old.onnx", text="text.txt", seq_len=8, max_kl=0, max_ppl_increase="900%")
    assert not found.passed
    with pytest.raises(GateError, match=r"^new\.onnx fails 1 gate: max-kl: .*, limit 0: failed\.$"):
        found.require()
    passed = onnxfq.evaluate("new.onnx", "old.onnx", text="text.txt", seq_len=8, max_kl=9)
    assert passed.require() is passed


WRONG = {
    "": (2, "The task language needs running text with --text FILE.txt"),
    "--text text.txt --max-kl 1": (2, "--max-kl compares the model with another one. Name that with --baseline"),
    "--text text.txt --baseline old.onnx --min-cosine 0.9": (2, "the task language measures perplexity, kl, top1"),
    "--data last.jsonl --baseline old.onnx --max-ppl-increase 1%": (2, "measures lambada_accuracy"),
    "--text text.txt --baseline old.onnx --max-kl 1%": (2, "--max-kl must be a number of 0 or more"),
    "--text text.txt --baseline old.onnx --max-drop x": (2, "--max-drop must be a number"),
    "--text text.txt --task poetry": (2, "poetry"),
    "--text text.txt --samples 0": (2, "--samples must be 1 or more (got 0)"),
    "--text text.txt --seq-len 0": (2, "--seq-len must be 1 or more (got 0)"),
    "--text text.txt --threads 0": (2, "--threads must be 1 or more (got 0)"),
    "--text text.txt --data last.jsonl --task outputs": (2, "takes either --text or --data (got both)"),
    "--text text.txt --task outputs": (2, "Name it with --baseline"),
    "--text last.jsonl": (3, "is not running text (got .jsonl)"),
    "--text none.txt": (3, "none.txt"),
    "--data none.jsonl": (3, "none.jsonl"),
    "--text text.txt": (3, "too short for one window (got 101 tokens, wanted 512)"),
    "--text text.txt --tokenizer nowhere": (3, "There is no"),
    "--text text.txt --baseline none.onnx": (3, "none.onnx"),
    "--data last.jsonl --task sts": (3, "embeds no sentences"),
    "--data last.jsonl --task classification": (3, "scores no classes"),
    "--data last.jsonl --task generation": (3, "is one file"),
}


@pytest.mark.parametrize("arguments", WRONG)
def test_what_cannot_be_done_says_why(folder: Path, capsys: Output, arguments: str) -> None:
    code, message = WRONG[arguments]
    assert evaluate("new.onnx", *arguments.split()) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err


def test_a_baseline_folder_lends_its_tokenizer(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    alone = bigram(elsewhere / "new.onnx", table(noise=0.2))
    (folder / "new.onnx").unlink()
    found = onnxfq.evaluate(alone, folder, text="text.txt", seq_len=8)
    assert found.settings["tokenizer"] == str(folder)
    with pytest.raises(DataError, match="`tokenizer=DIR`"):
        onnxfq.evaluate(alone, text="text.txt", seq_len=8)


def test_a_folder_of_several_models_must_say_which(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"several models and none is named model.onnx \(got new.onnx, old.onnx\)"):
        onnxfq.evaluate(folder, text="text.txt")
    bigram(folder / "model.onnx", table())
    assert onnxfq.evaluate(folder, text="text.txt", seq_len=8).task == "language"


def test_any_other_model_has_an_output_error(folder: Path, capsys: Output) -> None:
    for name, noise in (("a", 0.0), ("b", 0.3)):
        text = "m (float[n, 22] x) => (float[n, 4] y, int64[2] z) { y = MatMul(x, w) z = Shape(y) }"
        write_graph(text, folder / f"{name}.onnx", {"w": table(columns=4, noise=noise)})
    x = np.random.default_rng(0).standard_normal((6, 22), np.float32)
    np.savez(folder / "x.npz", x=x)
    found = onnxfq.evaluate("b.onnx", "a.onnx", data="x.npz", min_cosine=0.9, max_error=1e-6)
    assert found.task == "outputs"
    old, new = (x.astype(np.float64) @ table(columns=4, noise=noise) for noise in (0.0, 0.3))
    error = ((new - old) ** 2).sum() / ((old - old.mean(axis=0)) ** 2).sum()
    assert found["relative_mse"].value == pytest.approx(error, rel=1e-4)
    assert found["relative_mse"].samples == 6
    assert [(gate.name, gate.passed) for gate in found.gates] == [("min-cosine", True), ("max-error", False)]
    assert [output.name for output in found.outputs] == ["y", "z"]
    assert evaluate("b.onnx", "--baseline", "a.onnx", "--data", "x.npz") == 0
    assert "relative mse" in capsys.readouterr().out
    with pytest.raises(KeyError, match="perplexity: measured were relative_mse, cosine"):
        _ = found["perplexity"]


def test_an_encoder_on_running_text_has_an_output_error(folder: Path) -> None:
    for name, noise in (("a", 0.0), ("b", 0.3)):
        encoder(folder / f"{name}.onnx", table(columns=6, noise=noise))
    found = onnxfq.evaluate("b.onnx", "a.onnx", text="text.txt", seq_len=8, samples=3)
    assert (found.task, found["cosine"].samples) == ("outputs", 3)


LOGITS = {
    "language": ("batch", "tokens", 1000), "other": ("batch", "tokens", 9), "classifier": ("batch", 1000)
}  # fmt: skip


@pytest.mark.parametrize("kind", LOGITS)
def test_the_shape_of_logits_tells_the_kind(kind: str) -> None:
    ids = TensorSpec("input_ids", "int64", ("batch", "tokens"), vocabulary=1000)
    assert recognize(Signature((ids,), (TensorSpec("logits", "float32", LOGITS[kind]),))) == kind


def test_padded_logits_are_still_those_of_a_language_model() -> None:
    ids = TensorSpec("input_ids", "int64", ("batch", "tokens"), vocabulary=1000)
    for width in (1024, 1000, 990, "vocab"):
        assert (
            recognize(Signature((ids,), (TensorSpec("logits", "float32", ("batch", "tokens", width)),))) == "language"
        )


def test_threads_and_progress_are_passed_on(folder: Path) -> None:
    told: list[tuple[str, int, int]] = []
    onnxfq.evaluate(
        "new.onnx", text="text.txt", data="last.jsonl", seq_len=8, threads=1, progress=lambda *step: told.append(step)
    )
    assert told == [("loading", 0, 1), *(("perplexity", n, 12) for n in range(1, 13)),
                    *(("last words", n, 2) for n in (1, 2))]  # fmt: skip


def test_the_public_name_is_the_function_whatever_is_imported() -> None:
    import onnxfq.metrics.gates
    from onnxfq.metrics.gates import Gate

    assert Gate.__module__ == "onnxfq.metrics.gates"
    assert onnxfq.evaluate.__module__ == "onnxfq.evaluation.evaluate"
    assert Evaluation.__module__ == "onnxfq.evaluation.result"


def test_opt_quantized_against_itself(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The old man looked at the sea for a long while, and then he went home without a word. " * 12)
    onnxfq.quantize(OPT / "model.onnx", tmp_path / "q.onnx", algorithm="rtn", validate=False, provider="cpu")
    found = onnxfq.evaluate(tmp_path / "q.onnx", OPT, text=text, seq_len=64, provider="cpu", max_ppl_increase="25%")
    assert found.passed
    assert found["kl"].value is not None
    assert 0.001 < found["kl"].value < 0.2
    assert found["top1"].value is not None
    assert found["top1"].value > 0.7


def test_no_task_is_unknown() -> None:
    with pytest.raises(UsageError, match=r"Unknown task \(got task='poetry'\)\. Use auto, language"):
        onnxfq.evaluate("m.onnx", task="poetry")
