"""What a calibrated run says of its error: on samples held back, in-sample, and against the same without data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxfq
from onnxfq import Report
from onnxfq.errors import UsageError
from onnxfq.feeds import Feeds
from onnxfq.metrics.output_accuracy import OutputAccuracy
from onnxfq.metrics.output_error import compare
from onnxfq.quantization.keep_better import compare_errors, take_files
from onnxfq.reports.verdict import verdict
from onnxfq.session import Session
from support.models import Array, model, write
from support.reports import run
from support.tiny import entries, pair, weight

SETTINGS: dict[str, Any] = {"provider": "cpu", "memory": "2GB"}
CHOOSING = 4  # samples that choose what solving leaves open; no moment is of them
Samples = list[dict[str, Array]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxfq.quantization.validate.LATENCY_SECONDS", 0.02)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return pair(tmp_path / "m.onnx")


def correlated(count: int, seed: int, rank: int = 8) -> Samples:
    """Inputs that lie in a few directions, other ones for another seed's `rank`."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(rank).standard_normal((rank, 64))
    return [{"x": (rng.standard_normal((4, rank)) @ directions).astype(np.float32)} for _ in range(count)]


def about_data(report: Report) -> list[str]:
    """The loud words of the warnings; what is said of speed has none."""
    return [words for w in report.warnings if (words := w.partition(":")[0]).isupper()]


def error_of(source: Path, report: Report, samples: Samples) -> float:
    """Judged by ONNX Runtime on the written file."""
    assert report.output is not None
    sessions = [Session(Path(path), provider="cpu") for path in (source, report.output)]
    (found,) = compare(sessions[0], sessions[1], Feeds(tuple(samples), ""))
    assert found.relative_mse is not None
    return found.relative_mse


@pytest.mark.parametrize("memory", ["2GB", "1kB"])
def test_the_error_is_that_of_samples_held_back_and_the_other_stands_beside_it(source: Path, memory: str) -> None:
    samples = correlated(64, 0)
    report = onnxfq.quantize(source, calib=samples, samples=48, memory=memory)
    assert (report.measured_on, report.outputs[0].samples) == ("held-out", 16)
    assert report.outputs[0].relative_mse == pytest.approx(error_of(source, report, samples[48:]), rel=1e-3)
    assert report.in_sample[0].relative_mse == pytest.approx(error_of(source, report, samples[:16]), rel=1e-3)
    assert {target.tokens for target in report.targets} == {(48 - CHOOSING) * 4}
    again = Report.from_json(report.to_json())
    assert (again.measured_on, again.outputs[0].samples, again.in_sample) == ("held-out", 16, report.in_sample)


def test_few_samples_are_in_sample_and_gates_say_so(source: Path) -> None:
    report = onnxfq.quantize(source, calib=correlated(4, 0), max_error=9, min_speedup=0)
    assert (report.measured_on, report.outputs[0].samples, report.in_sample) == ("in-sample", 4, ())
    assert about_data(report) == ["FEW DATA", "IN-SAMPLE"]
    assert [("in-sample" in str(gate), gate.name) for gate in report.gates] == [
        (True, "max-error"),
        (False, "min-speedup"),
    ]
    assert "in-sample" in str(report.require(max_error=8).with_gates(onnxfq.Options(max_error=8).gates).gates[0])


@pytest.mark.parametrize("form", ["samples", "file"])
def test_data_named_for_it_take_the_place_of_those_held_back(source: Path, tmp_path: Path, form: str) -> None:
    samples, other = correlated(64, 0), correlated(5, 1)
    data: Any = other
    if form == "file":
        data = tmp_path / "other.npz"
        np.savez(data, x=np.concatenate([sample["x"] for sample in other])[:, None])
        other = [{"x": row} for sample in other for row in sample["x"][:, None]]
    report = onnxfq.quantize(source, calib=samples, eval_data=data, max_error=9)
    assert {target.tokens for target in report.targets} == {(64 - CHOOSING) * 4}
    assert (report.measured_on, report.outputs[0].samples) == ("held-out", len(other))
    assert report.outputs[0].relative_mse == pytest.approx(error_of(source, report, other), rel=1e-3)
    assert not about_data(report)
    assert report.settings["eval_data"] == (str(data) if form == "file" else "given: from Python")
    assert "in-sample" not in str(report.gates[0])


def test_without_calibration_given_data_were_never_fitted_to(source: Path) -> None:
    report = onnxfq.quantize(source, calib=correlated(4, 0), algorithm="hqq")
    assert (report.measured_on, report.in_sample, about_data(report)) == ("held-out", (), [])
    assert onnxfq.quantize(source).measured_on == "generated"
    assert onnxfq.quantize(source, validate=False).measured_on == ""


@pytest.mark.parametrize("named", [False, True])
def test_copies_of_what_calibrates_are_not_held_out(source: Path, named: bool) -> None:
    one = correlated(1, 0)
    data: dict[str, Any] = {"calib": one * 60, "eval_data": one * 9} if named else {"calib": one * 60}
    report = onnxfq.quantize(source, **data)
    assert report.measured_on == "in-sample"
    assert "IN-SAMPLE" in about_data(report)
    assert str(verdict(report).word).endswith("IN-SAMPLE")


@pytest.mark.parametrize("algorithm", ["hqq", "gptq"])
def test_every_algorithm_is_judged_on_the_same_samples(source: Path, algorithm: str) -> None:
    samples = correlated(64, 0)
    report = onnxfq.quantize(source, calib=samples, samples=48, algorithm=algorithm)
    assert (report.measured_on, report.outputs[0].samples) == ("held-out", 16)
    assert report.outputs[0].relative_mse == pytest.approx(error_of(source, report, samples[48:]), rel=1e-3)


def test_a_broken_file_is_not_the_better_one() -> None:
    broken = OutputAccuracy("y", "float32", 8, nonfinite=3, note="3 elements are NaN")
    good = OutputAccuracy("y", "float32", 8, relative_mse=0.01, cosine=0.99)
    found = compare_errors([broken], [good])
    assert found is not None
    assert not found.calibration_helped
    other = compare_errors([good], [broken])
    assert other is not None
    assert other.calibration_helped
    assert compare_errors([broken], [broken]) is None


def test_an_output_that_cannot_be_compared_leaves_the_judgement_to_the_others() -> None:
    rows = OutputAccuracy("rows", "float32", unmatched=2, note="not compared")
    ours, other = (OutputAccuracy("y", "float32", 8, relative_mse=error, cosine=0.99) for error in (0.02, 0.01))
    for first, second in (([rows, ours], [other]), ([ours], [rows, other])):
        found = compare_errors(first, second)
        assert found is not None
        assert (found.ours, found.other) == (0.02, 0.01)


def test_gates_of_a_folder_fail_where_a_model_was_not_compared(tmp_path: Path) -> None:
    pair(tmp_path / "models" / "one.onnx")
    body = "h = MatMul(x, w) y = Gather <axis = 1> (h, beyond)"
    proto = model(body, y="float[M, 1] y", w=weight(), beyond=np.array([99], np.int64))
    write(proto, tmp_path / "models" / "two.onnx")
    report = onnxfq.quantize(tmp_path / "models", tmp_path / "out", max_error=9)
    assert [output.name for output in report.outputs] == ["one.onnx: y"]
    assert [(gate.name, gate.passed) for gate in report.gates] == [("max-error", False)]
    assert any("two.onnx: NOT COMPARED" in warning for warning in report.warnings)


def test_nothing_is_held_back_where_nothing_is_compared(source: Path) -> None:
    report = onnxfq.quantize(source, calib=correlated(64, 0), validate=False)
    assert {target.tokens for target in report.targets} == {(64 - CHOOSING) * 4}


@pytest.mark.parametrize("memory", ["2GB", "1kB"])
def test_where_calibration_does_not_help_what_is_made_without_is_kept(
    source: Path, tmp_path: Path, memory: str
) -> None:
    misleading, real = correlated(64, 0, rank=8), correlated(16, 0, rank=9)
    auto = onnxfq.quantize(source, tmp_path / "a.onnx", calib=misleading, eval_data=real, memory=memory)
    free = onnxfq.quantize(source, tmp_path / "b.onnx", validate=False)
    assert auto.algorithm == free.algorithm == "hqq"
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert auto.targets == free.targets
    assert [w for w in auto.warnings if w.startswith("CALIBRATION DID NOT HELP") and "which was kept" in w]
    assert auto.in_sample == ()  # nothing calibrated it
    assert len(auto.warnings) == len(set(auto.warnings))
    asked = onnxfq.quantize(source, tmp_path / "c.onnx", calib=misleading, eval_data=real, algorithm="gptq")
    assert asked.algorithm == "gptq"
    assert [w for w in asked.warnings if w.startswith("CALIBRATION DID NOT HELP") and "`algorithm=auto`" in w]
    assert error_of(source, asked, real) > error_of(source, auto, real)
    assert auto.outputs[0].relative_mse == pytest.approx(error_of(source, auto, real), rel=1e-3)
    assert entries(tmp_path) == ["a.onnx", "b.onnx", "c.onnx", "m.onnx"]


@pytest.mark.parametrize("algorithm", ["auto", "gptq"])
def test_where_it_helps_a_note_tells_what_it_was_worth(source: Path, tmp_path: Path, algorithm: str) -> None:
    samples = correlated(64, 0)
    report = onnxfq.quantize(source, tmp_path / "a.onnx", calib=samples, samples=48, algorithm=algorithm)
    assert (report.algorithm, about_data(report)) == ("gptq", [])
    free = onnxfq.quantize(source, tmp_path / "b.onnx", validate=False)
    ours, other = (error_of(source, made, samples[48:]) for made in (report, free))
    told = [
        re.fullmatch(r"Without data the relative MSE would be (\S+) \(kept: (\S+), calibrated\), on 16 .*\.", warning)
        for warning in report.warnings
    ]
    (found,) = filter(None, told)
    assert [float(figure) for figure in found.groups()] == [pytest.approx(error, rel=0.01) for error in (other, ours)]
    assert ours < other


def test_what_is_broken_without_data_has_no_figure() -> None:
    broken = OutputAccuracy("y", "float32", 8, nonfinite=3, note="3 elements are NaN")
    good = OutputAccuracy("y", "float32", 8, relative_mse=0.01, cosine=0.99)
    found = compare_errors([good], [broken])
    assert found is not None
    assert "would be infinite (kept: 0.01, calibrated)" in found.note(run(outputs=(good,)), kept=False)


@pytest.mark.parametrize(
    ("count", "changes", "told"),
    [
        (
            4,
            {},
            r"`calib` gave 4 samples \(wanted: 32 or more\)\. Give more, of the kind that the model will meet: the",
        ),
        (
            9,
            {"samples": 1},
            r"9 samples \(wanted: 32 or more\), 8 samples of it held back\. .* a larger `samples` \(got 1\)",
        ),
        (40, {}, None),
    ],
)
def test_what_is_too_little_is_told_with_what_is_wanted(
    source: Path, count: int, changes: dict[str, Any], told: str | None
) -> None:
    report = onnxfq.quantize(source, calib=correlated(count, 0), **changes)
    found = [warning for warning in report.warnings if warning.startswith("FEW DATA")]
    assert len(found) == (told is not None)
    assert all(re.search(str(told), warning) for warning in found), found


def test_a_folder_keeps_the_better_of_each_model(tmp_path: Path) -> None:
    for name in ("one.onnx", "two.onnx"):
        pair(tmp_path / "models" / name)
    misleading, real = correlated(64, 0, rank=8), correlated(16, 0, rank=9)
    report = onnxfq.quantize(tmp_path / "models", tmp_path / "out", calib=misleading, eval_data=real)
    assert entries(tmp_path / "out") == ["one.onnx", "two.onnx"]
    assert {target.algorithm for target in report.targets} == {"hqq"}
    assert report.measured_on == "held-out"


@pytest.mark.parametrize("kept", [["m.onnx"], ["m.onnx", "m.onnx.data"]])
def test_all_files_of_the_better_take_the_places_of_the_others(tmp_path: Path, kept: list[str]) -> None:
    for folder, names in (("a", ["m.onnx", "m.onnx.data"]), ("b", kept)):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_text(folder)
    take_files(tmp_path / "b" / "m.onnx", tmp_path / "a" / "m.onnx")
    assert {path.name: path.read_text() for path in (tmp_path / "a").iterdir()} == dict.fromkeys(kept, "b")


@pytest.mark.parametrize("given", [3, 4.5])
def test_data_of_no_such_kind_are_refused(source: Path, given: object) -> None:
    with pytest.raises(UsageError, match="`eval_data` must be a path or samples"):
        onnxfq.quantize(source, eval_data=given)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="`eval_data` needs the comparison"):
        onnxfq.quantize(source, eval_data="f.npz", validate=False)


def test_the_prior_counts_as_tokens(source: Path) -> None:
    """Two rows of input say nothing of most directions: on others, calibration is hardly worse than none."""
    free = onnxfq.quantize(source, source.with_name("f.onnx"), validate=False)
    two = [{"x": correlated(1, 3, rank=64)[0]["x"][:2]}]
    fitted = onnxfq.quantize(source, source.with_name("g.onnx"), calib=two, algorithm="gptq", validate=False)
    unseen = correlated(64, 5, rank=64)
    assert error_of(source, fitted, unseen) < 1.1 * error_of(source, free, unseen)
