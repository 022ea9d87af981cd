"""Reports as data, as files and as tables."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import onnxfq
from onnxfq import pipeline
from onnxfq.benchmarking.latency import Latency
from onnxfq.commands.report_path import check_report_path
from onnxfq.commands.tables import show_inspection, show_report
from onnxfq.errors import OutputError, UsageError
from onnxfq.metrics.gates import Gate
from onnxfq.metrics.output_accuracy import OutputAccuracy
from onnxfq.quantization.summary import speed_warnings
from onnxfq.reports.contents import EXPERTS, REST, WEIGHTS, Content
from onnxfq.reports.expectations import Estimate
from onnxfq.reports.report import Report, Size, SkipReport, TargetReport
from onnxfq.system.terminal import one_line, printable, size_text
from support.models import model as parse
from support.models import write
from support.tiny import QUICK, contents, entries, pair, quantize, weight

Output = pytest.CaptureFixture[str]
LONG = "/model/decoder/layers.11/self_attention/query_key_value_projection/MatMul"


def target(name: str = LONG, **changes: object) -> TargetReport:
    base = TargetReport(
        name=name,
        op_type="MatMul",
        n=11008,
        k=4096,
        bits=4,
        block_size=128,
        granularity=128,
        algorithm="hqq",
        relative_error=0.01,
        float_bytes=180_355_072,
        bytes=24_000_000,
        speed="fast",
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def report(**changes: object) -> Report:
    base = Report(
        source="models/some-folder/model.onnx",
        output="models/some-folder/model.int4.onnx",
        scheme="int4, block 128, asymmetric, activations int8",
        algorithm="hqq",
        provider="cpu",
        targets=(target(), target("head", shares=LONG, bytes=0), target("slow one", speed="slow", model="m.onnx")),
        skipped=(
            SkipReport("/attention/MatMul", "MatMul", "no constant weight: both inputs are computed"),
            SkipReport("/small/MatMul", "MatMul", "too small: 8 weights", float_bytes=32),
        ),
        size=Size(200_000_000, 40_000_000, 180_355_072, 24_000_000, 45_088_768),
        estimate=Estimate(75.4, 2_500_000_000),
        outputs=(
            OutputAccuracy(
                "logits", "float32", 64, relative_mse=0.0123456, cosine=0.99, max_abs=1.0, kl=0.01, top1=0.9
            ),
            OutputAccuracy("ids", "int64", 64, equal=0.5),
            OutputAccuracy("odd", "float32", 64, note="the reference is constant and the candidate differs"),
        ),
        latency=(Latency("prefill", 123.456, 130.0, 45.678, 50.0, 2.7, 9),),
        inputs="given: data.npz",
        gates=(Gate("max-error", 0.02, 0.0123456, passed=True), Gate("min-speedup", 3.0, 2.7, passed=False)),
        warnings=("Some targets run slower than in floating point (--allow-slow).",),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def printed(show: object, shown: Report, capsys: Output, width: int = 80) -> list[str]:
    assert callable(show)
    show(shown, Console(stderr=True, width=width))
    return capsys.readouterr().err.splitlines()


# Figures


def test_derived_figures() -> None:
    size = Size(source_bytes=200, output_bytes=50, target_float_bytes=160, target_bytes=20, target_weights=40)
    assert (size.ratio, size.bits_per_weight, size.coverage) == (0.25, 4.0, 0.8)
    assert Size(200, 50, 0, 0, 0).bits_per_weight == 0.0


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_999, "1 MB"), (12_345_678, "12.3 MB"), (4.2e9, "4.2 GB")],
)
def test_sizes_in_words(count: float, text: str) -> None:
    assert size_text(count) == text


def test_figures_of_a_run_are_right(tmp_path: Path) -> None:
    model = pair(tmp_path / "m.onnx")
    done = onnxfq.quantize(model, algorithm="rtn", validate=False)
    assert done.size.source_bytes == model.stat().st_size
    assert done.size.output_bytes == (tmp_path / "m.int4.onnx").stat().st_size
    assert done.size.target_weights == 2 * 64 * 64
    assert done.size.bits_per_weight == pytest.approx(4 + 32 / 32 + 4 / 32)
    assert all(0 < (t.relative_error or 0) < 0.02 for t in done.targets)
    predicted = onnxfq.inspect(model).size
    assert predicted.target_bytes == done.size.target_bytes
    assert predicted.output_bytes == pytest.approx(done.size.output_bytes, rel=0.15)


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("table", "e = Gather(table, ids) h = MatMul(e, w)"),
        ("stored", "table = Cast<to = 1>(stored) e = Gather(table, ids) h = MatMul(e, w)"),
    ],
)
def test_a_weight_that_others_read_too_is_predicted_and_told_to_stay(tmp_path: Path, name: str, start: str) -> None:
    tied = weight(0, 256, 64)
    body = "t = Transpose<perm = [1, 0]>(table) y = MatMul(h, t)"
    proto = parse(f"{start} {body}", x="int64[M] ids", y="float[M, 256] y", constants={name: tied}, w=weight())
    source = write(proto, tmp_path / "m.onnx")
    done = onnxfq.quantize(source, algorithm="rtn", embeddings="float", validate=False)
    predicted = onnxfq.inspect(source, embeddings="float")
    assert predicted.size.output_bytes == pytest.approx(done.size.output_bytes, rel=0.05)
    for told in (done, predicted):
        assert any(warning.startswith("65.5 kB of the quantized weights stay") for warning in told.warnings)
    assert not any("stay in floating point" in w for w in onnxfq.inspect(pair(tmp_path / "n.onnx")).warnings)


def test_nodes_that_share_a_weight_count_it_once(tmp_path: Path) -> None:
    proto = parse("h = MatMul(x, w) y = MatMul(h, w)", y="float[M, 64] y", w=weight())
    source = write(proto, tmp_path / "m.onnx")
    for made in (onnxfq.inspect(source), onnxfq.quantize(source, algorithm="rtn", validate=False)):
        assert [(t.name, t.shares, t.bytes > 0) for t in made.targets] == [("h", "", True), ("y", "h", False)]
        assert made.size.target_weights == 64 * 64
    assert [t.relative_error for t in made.targets] == [made.targets[0].relative_error] * 2


# Files


def test_saved_as_json(tmp_path: Path) -> None:
    shown = report()
    shown.save(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text()) == json.loads(json.dumps(shown.to_json()))
    assert entries(tmp_path) == ["r.json"]


def test_report_option_writes_the_same_as_json(tmp_path: Path, capsys: Output) -> None:
    model = pair(tmp_path / "m.onnx")
    assert quantize(model, *QUICK, "--json", "--report", tmp_path / "r.json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "r.json").read_text())
    assert entries(tmp_path) == ["m.int4.onnx", "m.onnx", "r.json"]


def test_a_report_that_cannot_be_written_in_the_end_costs_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    def refused(path: Path, *_args: object, **_kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("onnxfq.reports.files.write_durably", refused)
    assert quantize(pair(tmp_path / "m.onnx"), *QUICK, "--report", tmp_path / "r.json") == 3
    err = capsys.readouterr().err
    assert "Permission denied" in err
    assert "m.int4.onnx" in err
    assert entries(tmp_path) == ["m.int4.onnx", "m.onnx"]


def test_reports_that_cannot_be_written_are_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_report_path(tmp_path / "r.json")
    (tmp_path / "folder.json").mkdir()
    for name in ("r.htm", "r", "nowhere/r.html", "folder.json", f"{'x' * 300}.json"):
        with pytest.raises(UsageError):
            check_report_path(tmp_path / name)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UsageError, match="not writable"):
        check_report_path(tmp_path / "r.json")


def test_a_report_never_changes_source_or_output(tmp_path: Path, capsys: Output) -> None:
    source = pair(tmp_path / "export" / "m.onnx").parent
    (source / "config.json").write_text("{}")
    (tmp_path / "out").mkdir()
    before = contents(tmp_path)
    assert quantize(source, *QUICK, "--report", source / "config.json") == 2
    assert "would change the source" in capsys.readouterr().err
    assert quantize(source, "-o", tmp_path / "out", *QUICK, "--report", tmp_path / "out" / "r.json") == 2
    assert "would change the output" in capsys.readouterr().err
    odd = tmp_path / "model.json"
    odd.write_bytes((source / "m.onnx").read_bytes())
    assert quantize(odd, *QUICK, "--report", odd) == 2
    odd.unlink()
    assert contents(tmp_path) == before


def test_save_refuses_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(OutputError, match=r"No space left on device\). The model is complete"):
        report().save(tmp_path / "r.json")
    assert entries(tmp_path) == []


# Tables


@pytest.mark.parametrize("show", [show_report, show_inspection])
def test_tables_fit_80_columns_and_lose_nothing(show: object, capsys: Output) -> None:
    lines = printed(show, report(), capsys)
    assert max(map(len, lines)) <= 80
    text = " ".join(lines)
    for part in ("200 MB", "40 MB", "4.26", "123.5 ms", "2.70x", "3x MatMulNBits"):
        assert part in text
    assert text.count("…") == 0


def test_a_report_shows_errors_gates_and_skips(capsys: Output) -> None:
    text = " ".join(" ".join(printed(show_report, report(), capsys)).split())
    for part in (
        "model.int4.onnx int4, block 128",
        "inputs given: data.npz",
        "logits 0.0123 0.990 0.01 90.0 %",
        "ids 50.0 % equal",
        "odd: the reference is constant",
        "Left alone: 1x too small: 8 weights (/small/MatMul)",
        "Left alone: 1x no constant weight",
        "Gate max-error: 0.01235, limit 0.02: passed",
        "Gate min-speedup: 2.7, limit 3: failed",
        "Quantized: 3 of 4 nodes with weights",
    ):
        assert part in text


def test_layers_are_summed_up_by_format(capsys: Output) -> None:
    assert "3x MatMulNBits 4-bit/128 361 MB 48 MB 13.3%" in " ".join(
        " ".join(printed(show_report, report(), capsys)).split()
    )
    targets = (*report().targets, target("8", bits=8, granularity="channel", bytes=45_000_000))
    text = " ".join(" ".join(printed(show_report, report(targets=targets), capsys)).split())
    assert "3x MatMulNBits 4-bit/128 361 MB 48 MB 13.3% 1x MatMulNBits 8-bit/channel 180 MB 45 MB 25.0%" in text
    tables = replace(targets[-1], op_type="Gather", operator="GatherBlockQuantized")
    text = " ".join(" ".join(printed(show_report, report(targets=(*targets, tables)), capsys, width=120)).split())
    assert "1x GatherBlockQuantized 8-bit/channel" in text
    assert "3x MatMulNBits 4-bit/128" in text
    text = " ".join(printed(show_inspection, report(targets=(*targets, tables)), capsys, width=160))
    assert text.index("Targets: MatMulNBits") < text.index(" 8 ") < text.index("Targets: GatherBlockQuantized")
    assert "Targets:" not in " ".join(printed(show_inspection, report(), capsys))


def test_a_scheme_that_differs_from_node_to_node_is_told_in_words(capsys: Output) -> None:
    scheme = "int4, block 32, asymmetric, activations int8; 2 nodes otherwise"
    assert f"model.int4.onnx {scheme}" in " ".join(
        " ".join(printed(show_report, report(scheme=scheme), capsys)).split()
    )


def test_a_speed_up_is_printed_with_its_interval_where_that_is_known(capsys: Output) -> None:
    (known,) = report().latency
    assert "2.70x as fast [2.61, 2.79]" in " ".join(
        printed(show_report, report(latency=(replace(known, low=2.61, high=2.79),)), capsys)
    )
    assert "[" not in "".join(line for line in printed(show_report, report(), capsys) if "as fast" in line)


def test_an_inspection_shows_every_node(capsys: Output) -> None:
    text = " ".join(printed(show_inspection, report(output=None), capsys, width=160))
    for part in (LONG, "head", "shared", "m.onnx: slow one", "4/128 slow", "11008 x 4096", "both inputs are computed"):
        assert part in text
    assert "75 s and 2.5 GB of memory" in text


@pytest.mark.parametrize("count", [2, 20])
def test_cache_outputs_are_summed_up(count: int, capsys: Output) -> None:
    caches = [OutputAccuracy(f"present.{i}.key", "float32", 4, relative_mse=i / 100, cosine=1.0) for i in range(count)]
    text = " ".join(printed(show_report, report(outputs=(*report().outputs, *caches)), capsys, width=120))
    assert f"worst of {count} cache outputs: present.{count - 1}.key" in text
    assert "present.0.key" not in text


def test_the_verdict_is_printed_before_size_speed_errors_and_the_rest(capsys: Output) -> None:
    text = " ".join(printed(show_report, report(), capsys))
    order = ["FAILED", "file size", "time,", "Error against", "Left alone", "Gate"]
    assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)
    text = " ".join(printed(show_inspection, report(output=None, gates=(), outputs=()), capsys))
    assert text.index("INSPECTED") < text.index("file size") < text.index("Left alone")


def test_what_was_left_as_it_was_is_printed_with_the_operator_that_reads_it(capsys: Output) -> None:
    left = (Content(WEIGHTS, "LSTM", 30_000_000), Content(EXPERTS, "Gather", 2_000_000), Content(REST, "", 1_000_000))
    text = " ".join(printed(show_report, report(contents=left, source_contents=left), capsys))
    text = " ".join(text.split())
    for part in ("LSTM weights 30 MB 30 MB", "experts' weights (Gather) 2 MB 2 MB", "graph, and the rest 1 MB 1 MB"):
        assert part in text
    many = tuple(Content(WEIGHTS, f"Op{i}", 1000 + i) for i in range(30))
    text = " ".join(" ".join(printed(show_report, report(contents=many), capsys)).split())
    assert "weights of 19 other kinds 19.2 kB" in text
    assert "Op29 weights" in text
    assert "Op0 weights" not in text


def test_many_names_of_one_reason_are_cut(capsys: Output) -> None:
    skips = tuple(SkipReport(f"node{i}", "MatMul", "too small", float_bytes=4) for i in range(5))
    text = " ".join(printed(show_report, report(skipped=skips), capsys))
    assert "5x too small (node0, node1, node2, …)" in text


# Text that is safe to print


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/layer.0/MatMul", "/layer.0/MatMul"),
        ("größe 层", "größe 层"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb\tc\x7f\x9b", "a\\nb\\tc\\x7f\\x9b"),
        ("\u202eevil\u200b", "\\u202eevil\\u200b"),
        ("\udc80", "\\udc80"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_one_line() -> None:
    assert one_line("  a\n  b\r\nc\x1b[0m ") == "a b c\\x1b[0m"


def test_an_output_that_is_slower_is_told_with_a_remedy() -> None:
    fast = Latency("decode, 1 token", 4.0, 5.0, 1.0, 2.0, 4.0, 10, 3.9, 4.1)
    alike = replace(fast, case="other", speedup=0.9, low=0.85, high=0.96)
    unknown = replace(fast, case="busy", speedup=0.5, low=0.3, high=0.9)
    assert list(speed_warnings([fast, alike, unknown])) == []
    slow = replace(fast, case="prefill", speedup=0.8, low=0.78, high=0.81)
    (warning,) = speed_warnings([fast, alike, unknown, slow])
    assert warning.startswith("Slower than the original in some cases (prefill, 0.80x as fast).")
    assert "`onnxfq benchmark` measures" in warning
    (warning,) = speed_warnings([replace(alike, clock="processor")])
    assert warning.startswith("Other programs kept the processors busy")


def test_a_folder_for_the_report_that_vanishes_during_the_run_costs_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    folder, real = tmp_path / "reports", pipeline.quantize
    folder.mkdir()

    def closing(*args: Any, **kwargs: Any) -> Report:
        report = real(*args, **kwargs)
        folder.rmdir()
        return report

    monkeypatch.setattr(pipeline, "quantize", closing)
    assert quantize(pair(tmp_path / "m.onnx"), *QUICK, "--report", folder / "r.json") == 3
    assert f"The model is complete: '{tmp_path / 'm.int4.onnx'}'." in capsys.readouterr().err
    assert entries(tmp_path) == ["m.int4.onnx", "m.onnx"]
