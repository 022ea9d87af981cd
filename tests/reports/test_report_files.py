"""Reports that are read back: the schema they keep to, and files that are no reports."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import onnxfq
from onnxfq.benchmarking.latency import Latency
from onnxfq.errors import DataError, UsageError
from onnxfq.metrics.gates import Gate
from onnxfq.metrics.metric import Metric
from onnxfq.metrics.output_accuracy import OutputAccuracy
from onnxfq.reports.expectations import Estimate
from onnxfq.reports.page import report_page
from onnxfq.reports.report import JSON_VERSION, Report, Size, SkipReport, TargetReport
from support.reports import ODD, run
from support.tiny import entries, pair

SCHEMA: dict[str, Any] = json.loads((files("onnxfq.reports") / "report.schema.json").read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)
RENAMED = {"onnxfq_version": "onnxfq", "runtime_version": "onnxruntime"}

odd = pytest.mark.parametrize("make", ODD.values(), ids=ODD)


def text_of(report: Report) -> str:
    return json.dumps(report.to_json(), allow_nan=False)


# The schema


def test_the_schema_is_one_and_has_the_version() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["version"]["const"] == JSON_VERSION
    assert SCHEMA["$id"].endswith(f":{JSON_VERSION}")


@odd
def test_reports_keep_to_the_schema(make: Callable[[], Report]) -> None:
    VALIDATOR.validate(json.loads(text_of(make())))


def test_reports_of_real_runs_keep_to_the_schema(tmp_path: Path) -> None:
    model = pair(tmp_path / "m.onnx")
    for report in (
        onnxfq.inspect(model),
        onnxfq.quantize(model, algorithm="gptq", calib="self", samples=2, max_error=1),
    ):
        VALIDATOR.validate(json.loads(text_of(report)))
        assert Report.from_json(json.loads(text_of(report))) == report
    assert report.seconds
    assert report.seconds > 0


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        (Report, SCHEMA),
        (TargetReport, SCHEMA["$defs"]["target"]),
        (SkipReport, SCHEMA["$defs"]["skip"]),
        (Size, SCHEMA["$defs"]["size"]),
        (Estimate, SCHEMA["$defs"]["estimate"]),
        (OutputAccuracy, SCHEMA["$defs"]["output"]),
        (Latency, SCHEMA["$defs"]["latency"]),
        (Gate, SCHEMA["$defs"]["gate"]),
        (Metric, SCHEMA["$defs"]["figure_of_text"]),
    ],
)
def test_the_schema_describes_every_member(kind: type, schema: dict[str, Any]) -> None:
    assert is_dataclass(kind)
    names = {RENAMED.get(field.name, field.name) for field in fields(kind)}
    extra = {Report: {"version"}, Size: {"ratio", "bits_per_weight", "coverage"}}.get(kind, set())
    assert set(schema["properties"]) == names | extra
    assert set(schema["required"]) <= names | extra
    for name, member in schema["properties"].items():
        described = member.get("description") or SCHEMA["$defs"][member["$ref"].split("/")[-1]].get("description")
        assert described, name


def test_the_schema_can_fail() -> None:
    told = json.loads(text_of(run()))
    for path, wrong in (("source", 3), ("size", {}), ("version", 2), ("targets", [{}]), ("gates", [{"name": "x"}])):
        assert not VALIDATOR.is_valid({**told, path: wrong})


# Reading back


@odd
def test_nothing_is_lost_on_the_way(make: Callable[[], Report]) -> None:
    report = make()
    assert Report.from_json(json.loads(text_of(report))) == report


def test_saved_and_loaded(tmp_path: Path) -> None:
    run().save(tmp_path / "r.json")
    assert Report.load(tmp_path / "r.json") == Report.load(str(tmp_path / "r.json")) == run()
    assert entries(tmp_path) == ["r.json"]


def test_reports_of_earlier_and_later_versions_within_a_layout_are_read() -> None:
    told = json.loads(text_of(run()))
    told["targets"][0]["colour"] = "blue"
    told["mood"] = {"good": True}
    assert Report.from_json(told) == run()
    for name in ("seconds", "calibration", "kernels_run"):
        del told[name]
    assert Report.from_json(told).seconds is None


def test_reports_from_before_intervals_and_operators_are_read() -> None:
    told = json.loads(text_of(run()))
    for row in told["latency"]:
        del row["low"], row["high"]
    for row in told["targets"]:
        del row["operator"], row["scheme"]
    VALIDATOR.validate(told)
    read = Report.from_json(told)
    assert [(row.low, row.high) for row in read.latency] == [(None, None)] * 2
    assert {(row.operator, row.scheme) for row in read.targets} == {("MatMulNBits", "")}


def test_a_report_can_be_saved_whichever_module_it_came_from(tmp_path: Path) -> None:
    run().save(tmp_path / "r.json")
    program = "from onnxfq.reports.report import Report; Report.load('r.json').save('r.html')"
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == report_page(run()) + "\n"


@pytest.mark.parametrize("name", ["r", "r.txt", "r.HTML", ".json"])
def test_no_other_kind_of_file_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"Unknown kind of report .*ends in \.json or \.html\."):
        run().save(tmp_path / name)
    assert entries(tmp_path) == []


# What is no report


def broken(path: str, value: object) -> str:
    """A report with one member replaced; `path` is keys and indices with dots between."""
    told = json.loads(text_of(run(gates=(Gate("max-error", 1.0, 0.1, passed=True),))))
    *way, last = (int(part) if part.isdigit() else part for part in path.split("."))
    inner: Any = told
    for step in way:
        inner = inner[step]
    inner[last] = value
    return json.dumps(told)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no report of onnxfq, which is a JSON file"),
        ("<html>", "which is a JSON file"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "got a list, wanted an object"),
        ("12", "got 12"),
        ("1" * 5000, "which is a JSON file"),
        ('{"version": NaN}', "NaN is no number in JSON"),
        ("{}", "it has no version"),
        ('{"version": true}', "it has no version"),
        ('{"version": 0}', "it has no version"),
        ('{"version": 99}', "of a newer onnxfq (got version 99, wanted 1 to 1)"),
        ('{"version": 1}', "report.source is missing"),
        (broken("source", 3), "report.source must be text (got 3)"),
        (broken("size", []), "report.size must be an object (got a list)"),
        (broken("size.source_bytes", 0), "has no size"),
        (broken("targets.1.n", 0), "has no size"),
        (broken("targets.1.n", True), "report.targets[1].n must be a whole number (got true)"),
        (broken("targets.1.n", 2.5), "report.targets[1].n must be a whole number (got 2.5)"),
        (broken("targets.1.bytes", -1), "report.targets[1].bytes must be 0 or more"),
        (broken("targets.1.bytes", 10**400), "got a very large number"),
        (broken("targets.0.output_error", 10**400), "got a very large number"),
        (broken("targets.0.output_error", "small"), "must be a number (got the text 'small')"),
        (broken("targets.0.weights", [1.0]), "report.targets[0].weights must be 2 members"),
        (broken("targets.0.remarks", "x"), "report.targets[0].remarks must be a list"),
        (broken("targets", {}), "report.targets must be a list"),
        (broken("warnings.0", None), "report.warnings[0] must be text (got null)"),
        (broken("settings", "x"), "report.settings must be an object"),
        (broken("gates.0.passed", 1), "must be true or false (got 1)"),
        (broken("gates.0.limit", 1).replace('"limit": 1', '"limit": 1e999'), "must be a finite number"),
        (broken("onnxfq", None), "must be text (got null)"),
    ],
)
def test_files_that_are_no_reports_are_refused_by_their_place(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(DataError) as caught:
        Report.load(tmp_path / "r.json")
    told = " ".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert says in told
    assert "r.json" in told
    assert len(told) < 500
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("name", ["nowhere.json", "folder", "bytes.json", "nul\0.json"])
def test_what_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "bytes.json").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(DataError):
        Report.load(tmp_path / name)


def test_what_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxfq.reports.reading.MAX_FILE_BYTES", 100)
    run().save(tmp_path / "r.json")
    with pytest.raises(DataError, match="too large for a report"):
        Report.load(tmp_path / "r.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([0, -1, 1e308, 5e-324]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
PATHS = [
    "source", "output", "settings", "settings.bits", "settings.include", "size.source_bytes", "size.target_weights",
    "targets", "targets.0.n", "targets.0.bytes", "targets.0.output_error", "targets.1.weights", "targets.1.activations",
    "targets.2.relative_error", "targets.0.shares", "outputs.0.relative_mse", "outputs.0.top1", "inputs",
    "latency.0.reference_ms", "latency.0.speedup", "gates.0.measured", "skipped.0.float_bytes", "estimate.seconds",
    "seconds", "warnings",
]  # fmt: skip


@given(path=st.sampled_from(PATHS), value=JSON)
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_whatever_stands_in_a_report_it_is_refused_or_shown(path: str, value: object) -> None:
    try:
        report = Report.from_json(json.loads(broken(path, value)))
    except DataError:
        return
    report_page(report)
    json.dumps(report.to_json(), allow_nan=False)
