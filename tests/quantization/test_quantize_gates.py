"""Gates of `quantize` on a language model: KL, cosine, perplexity, whole and piece by piece."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxfq
from onnxfq import GateError, ModelError, Report, UsageError
from onnxfq.arrays import Array
from onnxfq.session import Session
from support.evaluated import WORDS, encode, softmax, table, write_graph, write_tokenizer
from support.tiny import entries, pair
from support.tiny import quantize as command

WINDOW = 8
SETTINGS: dict[str, Any] = {"algorithm": "rtn", "provider": "cpu", "seq_len": WINDOW, "samples": 6, "bits": 2}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxfq.quantization.validate.LATENCY_SECONDS", 0.02)


def language(path: Path) -> Path:
    """A language model with a product to quantize: a token's row of a table times a head."""
    write_tokenizer(path.parent, max_position_embeddings=64)
    return write_graph(
        """lm (int64[1, tokens] input_ids, int64[1, tokens] attention_mask) => (float[1, tokens, 22] logits) {
            rows = Gather(table, input_ids)
            logits = MatMul(rows, head)
        }""",
        path,
        {"table": table(1, 22, 64), "head": table(2, 64, 22) / 8},
    )


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, count in (("texts.txt", 60), ("held-back.txt", 50)):
        Path(name).write_text(" ".join(rng.choice(WORDS, count)))
    Path("lines.jsonl").write_text("".join(f'{{"text": "{" ".join(rng.choice(WORDS, n))}"}}\n' for n in (3, 7, 5)))
    return language(Path("lm/model.onnx"))


def perplexity_of(path: Path | str, windows: list[list[int]]) -> float:
    """Over all predicted tokens of all windows."""
    session, losses = Session(Path(path)), []
    for ids in windows:
        feed = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}
        p: Array = softmax(session.run(feed)["logits"][0].astype(np.float64))
        losses += [-np.log(p[i, after]) for i, after in enumerate(ids[1:])]
    return float(np.exp(np.mean(losses)))


def cut(text: str, samples: int = 6) -> list[list[int]]:
    ids = [int(number) for number in encode(text)]
    return [ids[start : start + WINDOW] for start in range(0, len(ids) // WINDOW * WINDOW, WINDOW)][:samples]


def check(report: Report, source: Path, windows: list[list[int]]) -> None:
    (figure,) = report.language
    assert report.output is not None
    assert figure.baseline == pytest.approx(perplexity_of(source, windows), rel=1e-4)
    assert figure.value == pytest.approx(perplexity_of(report.output, windows), rel=1e-4)
    assert figure.samples == len(windows)
    assert figure.difference is not None
    assert abs(figure.difference) > 0.01
    assert Report.from_json(report.to_json()).language == report.language


@pytest.mark.parametrize("memory", ["2GB", "1kB"])
def test_the_perplexity_is_that_of_the_text_given_for_it(model: Path, memory: str) -> None:
    report = onnxfq.quantize(model, eval_text="held-back.txt", memory=memory, calib="texts.txt", **SETTINGS)
    check(report, model, cut(Path("held-back.txt").read_text()))
    assert report.language[0].note == "texts given: held-back.txt"
    assert (report.measured_on, report.outputs[0].samples) == ("held-out", 6)
    assert bool(report.latency) == (memory == "2GB")
    assert "held-back.txt" in str(report.settings["eval_text"])
    assert not [name for name in entries(model.parent) if "partial" in name]


@pytest.mark.parametrize("memory", ["2GB", "1kB"])
@pytest.mark.parametrize("calib", ["texts.txt", "lines.jsonl"])
def test_without_such_text_it_is_that_of_the_texts_given(model: Path, calib: str, memory: str) -> None:
    report = onnxfq.quantize(model, calib=calib, max_ppl_increase="90%", memory=memory, **SETTINGS)
    lines = [[int(i) for i in encode(line[10:-2])][:WINDOW] for line in Path("lines.jsonl").read_text().splitlines()]
    check(report, model, cut(Path(calib).read_text()) if calib == "texts.txt" else lines)
    assert report.measured_on == "held-out"  # nothing was calibrated
    (gate,) = report.gates
    assert (gate.name, gate.relative) == ("max-ppl-increase", True)
    assert gate.measured == report.language[0].relative_difference


def test_padding_does_not_count(model: Path) -> None:
    padded = [{"input_ids": np.array([[0, 5, 6, 7, 1, 1]]), "attention_mask": np.array([[1, 1, 1, 1, 0, 0]])}]
    report = onnxfq.quantize(model, calib=padded, max_ppl_increase=99, **SETTINGS)
    check(report, model, [[0, 5, 6, 7]])


def test_all_gates_at_once(model: Path) -> None:
    limits: dict[str, Any] = {
        "max_kl": "10",
        "min_cosine": 0.1,
        "max_error": 5,
        "max_ppl_increase": "900 %",
        "min_speedup": 0,
    }
    report = onnxfq.quantize(model, eval_text="held-back.txt", **limits, **SETTINGS)
    assert [gate.name for gate in report.gates] == [
        "max-ppl-increase", "max-kl", "min-cosine", "max-error", "min-speedup"
    ]  # fmt: skip
    (output,) = report.outputs
    assert [gate.measured for gate in report.gates][1:4] == [output.kl, output.cosine, output.relative_mse]
    assert report.passed
    assert {name: report.settings[name] for name in limits} == {
        "max_kl": 10.0, "min_cosine": 0.1, "max_error": 5.0, "max_ppl_increase": "900 %", "min_speedup": 0.0
    }  # fmt: skip


def test_require_holds_limits_against_what_was_measured(model: Path) -> None:
    report = onnxfq.quantize(model, eval_text="held-back.txt", **SETTINGS)
    (output,), (figure,) = report.outputs, report.language
    assert output.kl is not None
    assert figure.relative_difference is not None
    assert report.require() is report
    assert report.require(max_kl=output.kl, min_cosine=output.cosine, max_error=output.relative_mse) is report
    with pytest.raises(GateError, match=r"fails 1 gate: max-kl: 0\..*limit .*: failed"):
        report.require(max_kl=0.9 * output.kl, max_error=output.relative_mse)
    with pytest.raises(GateError, match=r"fails 2 gates: max-ppl-increase: .* %, limit .* %: failed; min-speedup"):
        report.require(max_ppl_increase="0%", min_speedup=1e9)
    with pytest.raises(UsageError, match="`max_kl` must be a number"):
        report.require(max_kl="1%")


def test_a_limit_on_what_was_not_measured_does_not_hold(model: Path) -> None:
    report = onnxfq.quantize(model, validate=False, **SETTINGS)
    with pytest.raises(GateError, match=r"max-kl: without a figure \(the models were not compared\)"):
        report.require(max_kl=9)
    report = onnxfq.quantize(model, **SETTINGS)
    with pytest.raises(GateError, match=r"max-ppl-increase: without a figure \(.*it needs text\), limit 9: failed"):
        report.require(max_ppl_increase=9)


def test_a_failed_gate_of_the_run_fails_with_other_limits_too(model: Path) -> None:
    report = onnxfq.quantize(model, max_kl=0, **SETTINGS)
    with pytest.raises(GateError, match="max-kl"):
        report.require(max_error=9)


REFUSED = {
    "--max-ppl-increase 1%": "needs text. Give it with --eval-text FILE, or with --calib FILE",
    "--max-ppl-increase 1% --calib self": "takes no calibration data",
    "--eval-text held-back.txt --no-validate": "--eval-text needs the comparison",
    "--max-kl 1 --min-cosine 1 --no-validate": "--max-kl and --min-cosine needs the comparison",
    "--max-kl 1%": "--max-kl must be a number of 0 or more (got 1%)",
    "--max-ppl-increase much --eval-text held-back.txt": "or a percentage such as 1% (got much)",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_gates_without_what_they_need_are_wrong_usage(
    model: Path, capsys: pytest.CaptureFixture[str], arguments: str
) -> None:
    assert command(model, "--algorithm", "rtn", *arguments.split()) == 2
    assert REFUSED[arguments] in capsys.readouterr().err
    assert entries(model.parent) == ["config.json", "model.onnx", "tokenizer.json"]


def test_a_model_without_logits_has_neither_kl_nor_perplexity(tmp_path: Path) -> None:
    model = pair(tmp_path / "m.onnx")
    with pytest.raises(UsageError, match=r"`max_kl` needs .* named logits or scores; the perplexity needs .*outputs y"):
        onnxfq.quantize(model, max_kl=1, eval_text=tmp_path / "t.txt")
    assert entries(tmp_path) == ["m.onnx"]


@pytest.mark.parametrize("memory", ["2GB", "1kB"])
def test_a_model_that_sees_later_tokens_has_no_perplexity(model: Path, memory: str) -> None:
    write_graph(
        """mlm (int64[1, tokens] input_ids) => (float[1, tokens, 22] logits) {
            rows = Gather(table, input_ids)
            sums = CumSum<reverse = 1>(rows, axis)
            logits = MatMul(sums, head)
        }""",
        model,
        {"table": table(1, 22, 64), "head": table(2, 64, 22) / 8, "axis": np.array(1)},
    )
    with pytest.raises(ModelError, match=r"sees the tokens after .* Leave out `max_ppl_increase` and `eval_text`"):
        onnxfq.quantize(model, eval_text="held-back.txt", memory=memory, **SETTINGS)


def test_in_a_folder_the_language_models_count(model: Path) -> None:
    pair(model.with_name("other.onnx"))
    shutil.copyfile(model, model.with_name("again.onnx"))
    report = onnxfq.quantize(model.parent, eval_text="held-back.txt", max_ppl_increase="900%", max_kl=9, **SETTINGS)
    assert [figure.note for figure in report.language] == [
        "again.onnx: texts given: held-back.txt", "model.onnx: texts given: held-back.txt"
    ]  # fmt: skip
    assert [gate.passed for gate in report.gates] == [True, True]


def test_gates_of_a_folder_run_piece_by_piece_do_not_vanish(model: Path) -> None:
    pair(model.with_name("other.onnx"))
    report = onnxfq.quantize(model.parent, memory="1kB", max_error=9, min_speedup=0, **SETTINGS)
    assert [(gate.name, gate.passed) for gate in report.gates] == [("max-error", True), ("min-speedup", False)]


# A comparison that meets no quantized weight


def masked(folder: Path) -> Path:
    """Where True means padding, a mask of ones hides the product."""
    return write_graph(
        """masked (float[rows, 64] x, bool[rows, 1] padding_mask) => (float[rows, 64] y, float[rows, 64] z) {
            p = MatMul(x, w)
            y = Where(padding_mask, b, p)
            z = Neg(y)
        }""",
        folder / "masked.onnx",
        {"w": table(1, 64, 64), "b": table(2, 1, 64)[0]},
    )


LIMITS: dict[str, Any] = {"max_error": 0.5, "min_cosine": 0.5}


def hidden() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {"x": rng.standard_normal((9, 64)).astype(np.float32), "padding_mask": np.ones((9, 1), np.bool_)}
        for _ in range(4)
    ]


def test_a_comparison_that_met_no_quantized_weight_passes_no_gate(tmp_path: Path) -> None:
    report = onnxfq.quantize(masked(tmp_path), tmp_path / "out.onnx", eval_data=hidden(), **LIMITS)
    assert [output.relative_mse for output in report.outputs] == [0.0, 0.0]
    assert report.shows_nothing
    assert "The comparison shows nothing" in report.warnings[0]
    assert [(gate.passed, gate.measured) for gate in report.gates] == [(False, None)] * 2
    with pytest.raises(GateError, match="no output depends on a quantized weight with these inputs"):
        report.require()
    with pytest.raises(GateError, match="max-error"):
        onnxfq.quantize(masked(tmp_path), tmp_path / "out.onnx", eval_data=hidden()).require(max_error=0.5)


@pytest.mark.parametrize("name", ["padding_mask", "src_mask"])
def test_masks_are_made_up_as_those_that_hide_nothing(name: str, tmp_path: Path) -> None:
    """By their name, or by trying."""
    path = masked(tmp_path)
    proto = onnx.load(path)
    proto.graph.input[1].name = name
    proto.graph.node[1].input[0] = name
    onnx.save(proto, path)
    report = onnxfq.quantize(path, tmp_path / "out.onnx", **LIMITS)
    assert report.require().outputs[0].relative_mse
    assert any("MADE UP: with True in src_mask" in note for note in report.warnings) == (name == "src_mask")


def test_inputs_that_show_the_weights_are_compared(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((9, 64)).astype(np.float32)
    samples = [{"x": x, "padding_mask": np.arange(9)[:, np.newaxis] > 6}]
    report = onnxfq.quantize(masked(tmp_path), tmp_path / "out.onnx", calib=samples, **LIMITS)
    assert not report.shows_nothing
    assert report.outputs[0].relative_mse
    assert report.require().passed


def test_weights_that_lose_nothing_may_leave_outputs_as_they_are(tmp_path: Path) -> None:
    """Exactly 0 is the right value where four bits hold the weights."""
    weight = np.tile(np.arange(16, dtype=np.float32) - 8, (64, 4)).T.copy() / 8
    path = write_graph(
        "m (float[3, 64] x) => (float[3, 64] y) { y = MatMul(x, w) }", tmp_path / "m.onnx", {"w": weight}
    )
    x = np.round(np.random.default_rng(0).standard_normal((3, 64)) * 4).astype(np.float32)
    settings: dict[str, Any] = {"activations": "float", "algorithm": "rtn"}
    report = onnxfq.quantize(path, tmp_path / "out.onnx", calib=[{"x": x}], max_error=0.5, **settings)
    assert report.outputs[0].relative_mse == 0.0
    assert report.require().passed
