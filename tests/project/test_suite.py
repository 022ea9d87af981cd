"""`python -m benchmarks`: what it would run, and the page it makes of what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

import onnxfq
from benchmarks import __main__ as suite
from benchmarks import calibration, formats, repeatability, tables, throughput, zoo, zoo_table
from benchmarks.contents import contents
from benchmarks.inputs import Array, decoder_feed
from benchmarks.page import TABLES, page
from benchmarks.parts import DATA, PARTS, PREPARED, fields, fill, plan, shown
from benchmarks.precision import computes_in_half, read, write_float32, write_half
from onnxfq.benchmarking import bandwidth
from onnxfq.benchmarking import cases as timed_cases
from onnxfq.benchmarking.footprint import Footprint
from onnxfq.reports import bands
from support.models import model, write
from support.tiny import weight
from tools.generate_decoder import Decoder, write_decoder
from tools.zoo.table import ZOO

Output = pytest.CaptureFixture[str]
ROOT = Path(__file__).resolve().parents[2]
RESULTS = [result for part in PARTS.values() for result in part.results]
TEMPLATES = {**PREPARED, **{name: t for part in PARTS.values() for name, t in part.results.items()}}


def run(*arguments: str | Path) -> int:
    return suite.main([str(argument) for argument in arguments])


# The page


def test_the_page_is_what_the_results_say() -> None:
    assert (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8") == page()


def test_the_guide_to_reports_shows_the_bands_and_what_they_rest_on() -> None:
    guide = (ROOT / "onnxfq" / "reports" / "README.md").read_text(encoding="utf-8")
    for index, level in enumerate(bands.LEVELS[:-1]):
        limits = f"up to {bands.KL[index]:g} | from {bands.TOP1[index]:.0%} | up to {bands.RELATIVE_MSE[index]:g}"
        limits = f"| {level} | {limits.replace('%', ' %')} | from {bands.COSINE[index]:g} |"
        assert limits in guide
    for name in ("bands-opt-4m", "bands-minilm"):
        assert tables.bands(name) in guide, name
    found = {row.split(" | ")[-1].strip(" |") for row in tables.bands("bands-opt-4m").splitlines()[2:]}
    assert found == set(bands.LEVELS), "every word is met"


def test_every_result_has_a_table_and_every_file_is_a_result() -> None:
    assert sorted(TABLES) == sorted(RESULTS)
    assert {path.stem for path in tables.RESULTS.glob("*.json")} <= set(RESULTS)


@pytest.mark.parametrize("path", sorted(tables.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_results_tell_where_and_when_and_no_places_of_files(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    result = json.loads(text)
    assert len(result["date"].split("-")) == 3
    assert {"processor", "cores", "memory_gb", "python", "versions"} <= set(result["machine"])
    assert "site-packages" not in text


def test_what_is_not_measured_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    made = page()
    assert made.count("Not measured yet: `python -m ") == len(RESULTS)


def test_page_measures_nothing_and_writes_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("something ran"))
    assert run("--page") == 0
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == page()


# The plan


def planned(tmp_path: Path, *parts: str, **given: str) -> tuple[dict[str, tuple[str, ...]], dict[str, list[str]]]:
    steps, skipped = plan(parts, {k: Path(v) for k, v in given.items()}, tmp_path / "work", tmp_path / "out")
    return {step.what: step.command for step in steps}, skipped


def test_inputs_are_made_once_and_before_they_are_needed(tmp_path: Path) -> None:
    given = dict.fromkeys(("decoder", "text_valid", "text_test", "lambada"), "there")
    commands, skipped = planned(tmp_path, "decoder", "granularity", **given)
    assert (list(commands), skipped) == (["decoder_calib", "opt-4m", "granularity"], {})
    calib, out = str(tmp_path / "work" / "decoder_calib"), str(tmp_path / "out" / "granularity.json")
    made = ("decoder", "there", "--text", "there", "--samples", "128", "--out", calib)
    assert commands["decoder_calib"] == ("benchmarks.calibration", *made)
    asked = ("--text", "there", "--windows", "100", "--calib", calib, "--out", out)
    assert commands["granularity"] == ("benchmarks.granularity", "there", *asked)


def test_what_lacks_inputs_is_skipped_and_the_missing_are_named(tmp_path: Path) -> None:
    commands, skipped = planned(tmp_path, "decoder", "throughput", decoder="there", text_test="there")
    assert list(commands) == ["throughput"]
    assert skipped == {"opt-4m": ["lambada", "text_valid"]}


def test_what_is_given_is_not_made(tmp_path: Path) -> None:
    commands, _ = planned(tmp_path, "throughput-1b", decoder_1b="there")
    assert list(commands) == ["throughput-1b"]
    commands, _ = planned(tmp_path, "throughput-1b")
    assert list(commands) == ["decoder_1b", "throughput-1b"]


def test_everything_can_be_planned(tmp_path: Path) -> None:
    commands, skipped = planned(tmp_path, *PARTS, encoder="e", decoder="d", **dict.fromkeys(DATA, "there"))
    assert skipped == {}
    assert [name for name in commands if name not in PREPARED] == RESULTS
    assert not [word for command in commands.values() for word in command if "{" in word]


@pytest.mark.parametrize("template", list(TEMPLATES.values()), ids=list(TEMPLATES))
def test_the_programs_and_options_of_commands_exist(template: str) -> None:
    program, *words = fill(template, {name: Path(name) for name in fields(template)})
    source = (ROOT / f"{program.replace('.', '/')}.py").read_text(encoding="utf-8")
    for option in (word for word in words if word.startswith("--")):
        assert f'"{option}"' in source or option == "--preset"
    assert "{" not in shown(template)


def test_plan_shows_commands_and_runs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("something ran"))
    (tmp_path / "decoder_1b").mkdir()
    (tmp_path / "decoder_1b" / "model.onnx").touch()
    assert run("--plan", "--only", "steps", "throughput-1b", "--work", tmp_path, "--results", tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "steps-minilm: skipped, not given: encoder, sts_test, sts_train. An earlier result stays." in lines
    made = tmp_path / "throughput-1b.json"
    decoder = tmp_path / "decoder_1b"
    assert lines[-1] == f"python -m benchmarks.throughput {decoder} --bits 4 --length 32 --out {made}"
    assert len(lines) == 4


def test_commands_run_in_turn_and_failures_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    ran: list[str] = []

    def fake(command: list[str], **_: object) -> SimpleNamespace:
        assert command[:2] == [sys.executable, "-m"]
        ran.append(command[2])
        return SimpleNamespace(returncode=int("calibration" in command[2]))

    for name in DATA.values():
        (tmp_path / name).touch()
    monkeypatch.setattr(subprocess, "run", fake)
    assert run("--data", tmp_path, "--only", "decoder", "throughput", "--results", tmp_path) == 1
    assert ran == ["benchmarks.calibration", "benchmarks.throughput"]  # nothing that needs what could not be made
    assert "Failed: decoder_calib, opt-4m. Earlier results stay." in capsys.readouterr().out
    assert run("--only", "throughput", "--results", tmp_path) == 0


# What it measures with


@pytest.fixture(scope="module", params=["float16", "float32"])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family = {"float16": Decoder(), "float32": Decoder("opt", kv_heads=4, dtype="float32", tied=True)}[request.param]
    return write_decoder(tmp_path_factory.mktemp("decoder"), family)


def logits(model: Path, dtype: str = "float32") -> Array:
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    feed = decoder_feed(session, np.arange(12)[None])
    feed = {name: array.astype(dtype) if array.dtype == np.float32 else array for name, array in feed.items()}
    return np.asarray(session.run(["logits"], feed)[0])


def test_a_model_means_the_same_in_either_precision(decoder: Path, tmp_path: Path) -> None:
    half = computes_in_half(read(decoder))
    wanted = logits(decoder, "float16" if half else "float32").astype(np.float64)
    write_float32(decoder, tmp_path / "single.onnx")
    write_half(tmp_path / "single.onnx", tmp_path / "half.onnx")
    for name in ("single", "half"):
        found = logits(tmp_path / f"{name}.onnx")
        assert found.dtype == np.float32
        assert np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()
    assert not computes_in_half(read(tmp_path / "half.onnx"))
    single, stored = (_bytes(tmp_path, name) for name in ("single", "half"))
    assert 0.45 < stored / single < 0.75


def _bytes(folder: Path, name: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(f"{name}.onnx*"))


@pytest.mark.parametrize("embeddings", ["float", 8])
def test_contents_add_up(decoder: Path, tmp_path: Path, embeddings: int | str) -> None:
    report = onnxfq.quantize(
        decoder, tmp_path / "q.onnx", algorithm="rtn", provider="cpu", validate=False, embeddings=embeddings
    )
    size = _bytes(tmp_path, "q")
    found = contents(tmp_path / "q.onnx", size)
    assert sum(found["bytes"].values()) == size
    assert found["bits_a_weight"] == pytest.approx(report.size.bits_per_weight, abs=1e-3)
    assert found["quantized_weights"] == sum(target.k * target.n for target in report.targets if not target.shares)
    tables_of_rows = 256 * 64 * 2 if computes_in_half(read(decoder)) else (256 + 512) * 64 * 4
    assert found["bytes"]["embedding"] == (tables_of_rows if embeddings == "float" else 0)
    assert found["bytes"]["weights"] == 0


def test_throughput_of_every_file_makes_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setattr(bandwidth, "_LEAST", 1 << 16)
    monkeypatch.setattr(bandwidth, "_largest_cache", lambda: 0)
    monkeypatch.setattr(timed_cases, "measure_footprint", lambda *_, **__: Footprint(0.5, 10_000_000, 30_000_000))
    monkeypatch.setattr(throughput, "FORMATS", ((8, 32), (4, 32)))
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    source = write_decoder(tmp_path / "tiny", Decoder()).parent
    out = str(tmp_path / "throughput.json")
    monkeypatch.setattr(sys, "argv", ["throughput", str(source), "--length", "8", "--seconds", "0", "--out", out])
    throughput.main()
    rows = tables.read("throughput")["rows"]
    names = [(row["file"], row.get("from")) for row in rows]
    quantized = [(f"{bits} bits", origin) for origin in ("float32", "float16") for bits in (8, 4)]
    assert names == [("float32", None), ("float16", None), *quantized]
    assert (rows[0]["of_float32"], rows[1]["of_float16"]) == (1, 1)
    assert rows[3]["file_bytes"] < rows[2]["file_bytes"] < rows[0]["file_bytes"]
    assert rows[5]["contents"]["bits_a_weight"] < rows[3]["contents"]["bits_a_weight"]  # scales in float16
    table = tables.throughput("throughput").splitlines()
    assert len({line.count(" | ") for line in (table[0], *table[2:])}) == 1
    assert table[-1].startswith("| published, OPT-30B on GPUs |  | 60 → 15.5 GB | 26% |")


def tiny_encoder(folder: Path) -> Path:
    """A table and two MatMuls, a tokenizer of letters, and scored pairs of texts, which are the calibration too."""
    product = " ".join(f"h{layer + 1} = MatMul(h{layer}, w{layer})" for layer in range(2))
    arrays = {f"w{layer}": weight(layer, 128, 128) / np.float32(11) for layer in range(2)}
    ids, states = 'int64["texts", "tokens"] input_ids', 'float["texts", "tokens", 128] h2'
    body = f"h0 = Gather(table, input_ids) {product}"
    write(model(body, x=ids, y=states, constants=arrays, table=weight(9, 256, 128)), folder / "model.onnx")
    tokenizer = Tokenizer(WordLevel({letter: number for number, letter in enumerate("?abcdefgh")}, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    draw = np.random.default_rng(0).choice
    rows = [f"{' '.join(draw([*'abcdefgh'], 6))},{' '.join(draw([*'abcdefgh'], 6))},{score}" for score in range(40)]
    (folder / "sts.csv").write_text("\n".join(rows), encoding="utf-8")
    calibration.write_encoder(folder, folder / "sts.csv", 40, folder / "calib")
    return folder


def test_every_format_of_an_encoder_makes_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    monkeypatch.setattr(formats, "CASES", ((2, 4),))
    chosen = {name: formats.FORMATS[name] for name in ("`--format int8`", "`--format int8`, calibrated")}
    monkeypatch.setattr(formats, "FORMATS", chosen)
    given = ["--sts", str(tiny_encoder(tmp_path) / "sts.csv"), "--calib", str(tmp_path / "calib"), "--seconds", "0"]
    monkeypatch.setattr(sys, "argv", ["formats", str(tmp_path), *given, "--out", str(tmp_path / "formats.json")])
    formats.main()
    text = (tmp_path / "formats.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    original, *others = rows = json.loads(text)["rows"]
    assert [row["file"] for row in others] == [*chosen, formats.DYNAMIC]
    free, calibrated, dynamic = (row["relative_mse"] for row in others)
    assert 0 < calibrated <= free < 0.01
    assert 0 < dynamic < 0.01
    assert all(row["file_bytes"] < 0.6 * original["file_bytes"] and row["load_ms"] > 0 for row in others)
    assert all(row["2x4"]["low"] <= row["2x4"]["ratio"] <= row["2x4"]["high"] for row in others)
    table = tables.formats().splitlines()
    assert len(table) == 2 + len(rows)
    assert len({line.count(" | ") for line in (table[0], *table[2:])}) == 1


def test_every_model_of_a_zoo_makes_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.setattr(zoo, "SAMPLES", 8)
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    for name in ("classifier", "convolutions"):
        ZOO[name](tmp_path / "zoo" / name)
    out = str(tmp_path / "architectures.json")
    monkeypatch.setattr(sys, "argv", ["zoo", str(tmp_path / "zoo"), "--seconds", "0", "--out", out])
    zoo.main()
    text = Path(out).read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    mlp, convolutions = json.loads(text)["rows"]
    assert (mlp["model"], mlp["without_data"]["targets"]) == ("classifier", 3)
    assert 0 < mlp["calibrated"]["error"] < mlp["without_data"]["error"]
    assert mlp["without_data"]["size_ratio"] < mlp["dynamic"]["size_ratio"] < 1
    assert (convolutions["model"], convolutions["without_data"]["targets"]) == ("convolutions", 2)
    assert convolutions["without_data"]["size_ratio"] < 0.3
    _, _, first, second = zoo_table.architectures().splitlines()
    assert [cell.strip() for cell in second.split("|")[1:3]] == ["convolutions", "2"]
    assert "fails" not in second
    assert first.count(" | ") == second.count(" | ")


def test_speed_ups_apart_and_the_load_that_comes_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(ratio: float) -> dict[str, object]:
        speedup = {"ratio": ratio, "low": ratio - 0.01, "high": ratio + 0.01}
        return {"cases": [{"kind": "decode", "batch": 1, "length": 128, "rounds": 20, "speedups": [speedup]}]}

    (row,) = repeatability.spread([found(2.0), found(2.1), found(1.9)])
    assert (row["speedups"], row["varies"], row["rounds"]) == ([2.0, 2.1, 1.9], 0.1053, [20, 20, 20])
    started: list[subprocess.Popen[bytes]] = []

    class Seen(subprocess.Popen[bytes]):
        def __init__(self, command: list[str]) -> None:
            super().__init__(command)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Seen)
    with repeatability.load(2):
        assert [process.poll() for process in started] == [None, None]
    assert [process.poll() is None for process in started] == [False, False]
