"""Several runs side by side."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from rich.console import Console
from test_report_files import SCHEMA

from onnxfq.cli import run as onnxfq
from onnxfq.commands.tables import show_comparison
from onnxfq.errors import UsageError
from onnxfq.metrics.gates import Gate
from onnxfq.reports.compare import ComparedMetric, ReportComparison, compare_reports
from onnxfq.reports.report import Report
from support.reports import EVIL, ODD, evil, inspected, layer, run
from support.tiny import contents, entries

Output = pytest.CaptureFixture[str]
VALIDATOR = Draft202012Validator({**SCHEMA["$defs"]["comparison"], "$defs": SCHEMA["$defs"]})


def compared(*reports: Report) -> ReportComparison:
    return compare_reports([f"{i}.json" for i in range(len(reports))], reports)


def better() -> Report:
    """The usual run with one layer better, one worse, one left alone."""
    targets = (layer(0, output_error=5e-5), layer(1, output_error=0.1), layer(2))
    return run(targets=targets, settings={**run().settings, "block_size": 16}, algorithm="awq", seconds=20.0)


def test_layers_that_changed_most_come_first() -> None:
    result = compared(run(), better())
    first = layer(0).output_error or 0.0
    second = layer(1).output_error or 0.0
    assert [found.name for found in result.changed] == [layer(3).name, layer(1).name, layer(0).name]
    assert [found.ratios[1] for found in result.changed] == [None, 0.1 / second, 5e-5 / first]
    assert math.isinf(result.changed[0].change)
    assert [found.number for found in result.layers] == [1, 2, 3, 4]
    assert result.layers[2].change == 0.0


def test_settings_that_differ_are_told_and_no_others() -> None:
    assert dict(compared(run(), better()).settings) == {"block_size": ("32", "16"), "solver": ("gptq", "awq")}
    assert compared(run(), run()).settings == ()
    more = replace(run(), settings={**run().settings, "new": None, "newer": [1]})
    assert dict(compared(run(), more).settings) == {"newer": ("none", "[1]")}


def test_figures_name_the_best() -> None:
    found = {figure.name: figure for figure in compared(run(), better()).figures}
    assert found["time of the run"].values == (31.5, 20.0)
    assert found["time of the run"].best == [False, False], "another day, another load"
    assert found["file size"].best == [False, False]
    assert found["KL, logits"].values == (0.01, 0.01)
    assert found["speed-up, decode, 1 token"].texts == ["2.00x", "2.00x"]
    assert ComparedMetric("x", "fraction", "more", (0.5, None, 0.25)).best == [True, False, False]
    assert ComparedMetric("x", "ms", "less", (1.0001, 1.0002)).best == [False, False], "they read the same"


def test_nobody_is_the_best_where_another_may_be_as_good() -> None:
    def best(low: tuple[float | None, ...], high: tuple[float | None, ...]) -> list[bool]:
        return ComparedMetric("speed-up", "times", "more", (2.0, 1.8), low, high).best

    assert best((1.9, 1.7), (2.1, 1.85)) == [True, False]
    assert best((1.9, 1.7), (2.1, 1.9)) == [False, False], "the intervals touch"
    assert best((1.8, None), (2.1, None)) == [False, False], "the other's value lies inside"
    assert best((None, None), (None, None)) == [True, False]


def test_nobody_is_the_best_on_other_inputs() -> None:
    worse = replace(run().outputs[0], kl=0.5, top1=0.5, relative_mse=0.9)
    figures = {figure.name: figure for figure in compared(run(), run(outputs=(worse,))).figures}
    assert figures["KL, logits"].best == figures["top-1, logits"].best == [True, False]
    other = run(outputs=(worse,), inputs="generated", size=replace(run().size, output_bytes=1))
    figures = {figure.name: figure for figure in compared(run(), other).figures}
    for name in ("KL, logits", "top-1, logits", "largest relative MSE", "speed-up, prefill"):
        assert figures[name].better == "", name
        assert figures[name].best == [False, False], name
    assert figures["file size"].best == [False, True], "bytes are bytes"


def test_perplexities_are_held_apart_by_their_error() -> None:
    def told(value: float, error: float, note: str = "texts given: held-back.txt") -> ComparedMetric:
        metric = replace(run().language[0], value=value, difference_error=error, note=note)
        return next(f for f in compared(run(), run(language=(metric,))).figures if f.name == "perplexity")

    assert told(50.1, 0.01).best == [False, True]
    assert told(51.0, 0.2).best == [False, False]
    assert told(50.1, 0.01).texts == ["51.50", "50.100"]
    assert told(50.1, 0.01, "other texts").better == ""


def test_errors_are_compared_with_their_like() -> None:
    plain = run(targets=tuple(layer(i, output_error=None) for i in range(4)))
    result = compared(run(), plain)
    assert {found.measure for found in result.layers} == {"weights"}
    assert result.changed == []
    assert any("Not every run was calibrated" in remark for remark in result.remarks)
    assert {found.measure for found in compared(run(), run()).layers} == {"output"}


def test_what_cannot_be_compared_is_told() -> None:
    other = run(inputs="generated", size=replace(run().size, source_bytes=1))
    remarks = " ".join(compared(run(), other, better()).remarks)
    for part in ("differ in size", "different inputs", "1 node is quantized in some of the runs only", "separate runs"):
        assert part in remarks


def test_nodes_of_one_name_are_two_nodes() -> None:
    twins = run(targets=(layer(0, name="x", output_error=0.1), layer(1, name="x", output_error=0.2)))
    assert [found.errors for found in compared(twins, twins).layers] == [(0.1, 0.1), (0.2, 0.2)]


def test_an_exact_layer_is_infinitely_better() -> None:
    result = compared(run(targets=(layer(0, output_error=0.0),)), run(1), run(targets=(layer(0, output_error=0.0),)))
    assert result.layers[0].ratios == (1.0, None, 1.0)
    assert math.isinf(result.layers[0].change)


def test_formats_are_those_of_each_run(capsys: Output) -> None:
    other = run(targets=(layer(0, bits=8, block_size=128, granularity=128, output_error=1e-9), layer(1)))
    result = compared(run(), other)
    assert [found.formats for found in result.layers] == [
        ("4/32", "8/128"), ("4/32", "4/32"), ("4/32", None), ("4/32", None)
    ]  # fmt: skip
    show_comparison(result, Console(stderr=True, width=80))
    text = " ".join(capsys.readouterr().err.split())
    assert "0.0001 4/32 1e-09 8/128" in text
    assert "4/32 not quantized" in text


def test_one_run_is_no_comparison() -> None:
    with pytest.raises(UsageError, match="needs two reports"):
        compared(run())


def test_labels_go_beyond_the_alphabet() -> None:
    labels = [r.label for r in compared(*[run(0)] * 30).runs]
    assert labels[:2] + labels[25:28] == ["A", "B", "Z", "AA", "AB"]


@pytest.mark.parametrize("name", ODD)
def test_comparisons_keep_to_the_schema(name: str) -> None:
    result = compared(run(), ODD[name](), better())
    VALIDATOR.validate(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    assert result.changed or name == "usual"


def test_tables_are_harmless_and_fit(capsys: Output) -> None:
    show_comparison(compared(run(), better(), inspected()), Console(stderr=True, width=80))
    lines = capsys.readouterr().err.splitlines()
    assert max(map(len, lines)) <= 80
    show_comparison(compare_reports([EVIL, "b"], [evil(), run()]), Console(stderr=True, width=200))
    text = capsys.readouterr().err
    assert [c for c in set(text) if not c.isprintable() and c != "\n"] == []
    assert "[bold]\\x1b[31mred" in text


# The command


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Path]:
    run().save(tmp_path / "a.json")
    better().save(tmp_path / "b.json")
    return tmp_path / "a.json", tmp_path / "b.json"


def report(*arguments: str | Path) -> int:
    return onnxfq(["report", *map(str, arguments)])


def test_one_report_is_shown_again_or_turned_into_a_page(saved: tuple[Path, Path], capsys: Output) -> None:
    first, _ = saved
    assert report(first, "-o", first.with_name("p.html")) == 0
    assert "Error against the original" in capsys.readouterr().out
    assert first.with_name("p.html").read_text().startswith("<!DOCTYPE html>")
    assert report(first, "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads(first.read_text())


def test_several_are_compared(saved: tuple[Path, Path], capsys: Output) -> None:
    first, second = saved
    assert report(first, second, "-o", first.with_name("c.html")) == 0
    out = capsys.readouterr().out
    for part in ("A  ", "B  ", "Settings that differ", "block_size", "largest changes first (3 of 3)", "not quantized"):
        assert part in out
    assert report(first, second, "--json", "-o", first.with_name("c.json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads(first.with_name("c.json").read_text())
    assert [r["label"] for r in told["runs"]] == ["A", "B"]
    assert entries(first.parent) == ["a.json", "b.json", "c.html", "c.json"]


def test_to_show_a_failed_run_is_no_failure(tmp_path: Path, capsys: Output) -> None:
    run(gates=(Gate("max-error", 0.1, 0.2, passed=False),)).save(tmp_path / "f.json")
    assert report(tmp_path / "f.json") == 0
    assert report(tmp_path / "f.json", tmp_path / "f.json") == 0
    assert "FAILED: the gate does not hold: max-error 0.2, limit 0.1." in " ".join(capsys.readouterr().out.split())


def test_wrong_usage_and_wrong_files_are_told_apart(saved: tuple[Path, Path], capsys: Output) -> None:
    first, second = saved
    folder = first.parent
    (folder / "broken.json").write_text('{"version": 1}')
    (folder / "new.json").write_text('{"version": 2}')
    before = contents(folder)
    assert report() == 2
    assert report(first, "-o", folder / "x.pdf") == 2
    assert report(first, second, "-o", second) == 2
    assert "would change the source" in capsys.readouterr().err
    for name in ("nowhere.json", "broken.json", "new.json"):
        assert report(first, folder / name, "-o", folder / "x.html") == 3
        err = capsys.readouterr().err
        assert name in err
        assert err.count("Error: ") == 1
        assert "Traceback" not in err
    assert contents(folder) == before
