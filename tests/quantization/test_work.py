"""The work directory of calibrated runs: whose it is, when it goes, and that nothing but the data decides."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxfq import options, pipeline
from onnxfq.calibration.checkpoint import Checkpoint
from onnxfq.errors import OutputError
from support.models import Array
from support.resuming import BASIC, STAGES, Place, data, interrupted, layered, record, stages, stop, uninterrupted
from support.tiny import contents, entries, quantize, refused

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return uninterrupted(tmp_path_factory.mktemp("whole"))


# Folders


@pytest.mark.parametrize("resume", [(), ("--resume",)])
def test_a_finished_run_leaves_no_work_beside_its_output(
    place: Place, wanted: dict[str, bytes], resume: tuple[str, ...]
) -> None:
    assert place.run(*resume) == 0
    assert place.written() == wanted


def test_a_work_directory_that_was_named_stays_and_gives_the_result_again(
    place: Place, wanted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    work = place.folder / "w"
    assert place.run("--work-dir", work) == 0
    kept = contents(work)
    assert sorted(kept) == ["onnxfq-work.json", *(f"stage-{i:05}.npz" for i in range(STAGES))]
    place.output.unlink()
    stop(monkeypatch, Checkpoint, "save", 1, ZeroDivisionError)  # nothing is solved again
    assert place.run("--work-dir", work, "--resume") == 0
    assert contents(work) == kept
    assert place.output.read_bytes() == wanted["out.onnx"]


def test_without_resume_an_unfinished_run_is_thrown_away(
    place: Place, wanted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    interrupted(place, monkeypatch)
    capsys.readouterr()
    saved = record(monkeypatch)
    assert place.run() == 0
    assert f"An unfinished run in '{place.work}' was thrown away; --resume" in capsys.readouterr().err
    assert saved == list(range(STAGES))
    assert place.written() == wanted


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--bits", "8"), "scheme: got int8, block 32"),
        (("--block-size", "16"), "scheme: got int4, block 16"),
        (("--algorithm", "gptq:damping=0.2"), "algorithm: got gptq:damping=0.2, wanted gptq"),
        (("--samples", "20"), "data: got "),
        (("--exclude", "^y$"), "targets: got "),
    ],
)
def test_other_options_are_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Output, more: tuple[str, ...], told: str
) -> None:
    interrupted(place, monkeypatch)
    capsys.readouterr()
    arguments = place.arguments("--resume", *more)
    refused(place.folder, capsys, *arguments, code=2, says=("belongs to another run", told, "leave --resume out"))


def test_another_model_or_other_data_are_refused(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    interrupted(place, monkeypatch)
    capsys.readouterr()
    other = data(tmp_path / "other.npz", seed=1)
    refused(place.folder, capsys, *place.arguments("--calib", other, "--resume"), code=2, says="(data: got ")
    layered(place.source, external=True, seed=50)
    refused(place.folder, capsys, *place.arguments("--resume"), code=2, says="(model: got ")


def test_options_that_change_no_weight_may_differ(
    place: Place, wanted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(place, monkeypatch, "--memory", "0")
    more = ("--memory", "1GB", "--report", place.source.with_name("r.json"), "--samples", "1000")
    assert place.run("--resume", *more) == 0
    assert json.loads(place.source.with_name("r.json").read_text())["calibration"] == "given: x.npz"
    place.source.with_name("r.json").unlink()
    assert place.written() == wanted


@pytest.mark.parametrize("resume", [(), ("--resume",)])
def test_a_folder_with_other_files_is_refused_before_any_work(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Output, resume: tuple[str, ...]
) -> None:
    monkeypatch.setattr(pipeline, "prepare", None)
    place.work.mkdir()
    (place.work / "thesis.txt").write_text("mine")
    says = ("holds other files (such as 'thesis.txt')", "--work-dir")
    refused(place.folder, capsys, *place.arguments(*resume), code=2, says=says)
    arguments = place.arguments("--work-dir", place.work / "thesis.txt")
    refused(place.folder, capsys, *arguments, code=2, says="is a file")


def test_a_work_directory_in_the_output_or_the_source_is_refused(place: Place, tmp_path: Path, capsys: Output) -> None:
    for work in (place.output, place.output / "w", place.source):
        refused(tmp_path, capsys, *place.arguments("--work-dir", work), code=2, says=("work directory", "--work-dir"))
    folder = ("quantize", place.source.parent, "-o", tmp_path / "int4", "--calib", place.calib, *BASIC)
    for work in (tmp_path / "int4", tmp_path / "int4" / "w", place.source.parent / "w"):
        refused(tmp_path, capsys, *folder[1:], "--work-dir", work, code=2, says="which it would change")


def test_a_place_that_cannot_be_written(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    (tmp_path / "file").write_text("mine")
    says = ("Cannot write the work directory", "Not a directory")
    if os.name != "nt":
        refused(tmp_path, capsys, *place.arguments("--work-dir", tmp_path / "file" / "w"), says=says)
    stop(monkeypatch, Path, "mkdir", 2, PermissionError)  # the first is the staging folder
    refused(tmp_path, capsys, *place.arguments(), says=("Cannot write the work directory", "--work-dir"))


def test_several_models_are_resumed_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    for seed, name in enumerate(("a", "b")):
        layered(tmp_path / "in" / f"{name}.onnx", seed=20 * seed)
    x, output = data(tmp_path / "x.npz"), tmp_path / "out"
    arguments = (tmp_path / "in", "--calib", x, *BASIC)
    assert quantize(*arguments, "-o", tmp_path / "whole") == 0
    assert entries(tmp_path) == ["in", "whole", "x.npz"]
    with monkeypatch.context() as patch:
        stop(patch, Checkpoint, "save", STAGES + 3, KeyboardInterrupt)
        assert quantize(*arguments, "-o", output) == 130
    assert f"--resume goes on from '{tmp_path / 'out.work'}'." in capsys.readouterr().err
    assert {name: len(stages(tmp_path / "out.work" / name)) for name in "ab"} == {"a": STAGES, "b": 2}
    assert quantize(*arguments, "-o", output, "--resume") == 0
    assert contents(output) == contents(tmp_path / "whole")
    assert entries(tmp_path) == ["in", "out", "whole", "x.npz"]


# Whatever the machine


@pytest.mark.parametrize("more", [("--memory", "1"), ("--memory", "10kB"), ("--memory", "2GB")])
def test_memory_changes_no_byte(place: Place, wanted: dict[str, bytes], more: tuple[str, ...]) -> None:
    assert place.run(*more) == 0
    assert place.written() == wanted


def test_threads_change_no_byte(place: Place) -> None:
    found = []
    for threads in ("1", "2"):
        assert place.run("--threads", threads) == 0
        found.append(place.written())
    assert found[0] == found[1]


def test_python_can_resume_too(place: Place, wanted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    x: Array = np.load(place.calib)["x"]
    given: dict[str, Any] = {"calib": [{"x": row[np.newaxis]} for row in x], "provider": "cpu", "validate": False}
    with monkeypatch.context() as patch:
        stop(patch, Checkpoint, "save", 3, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt) as raised:
            pipeline.quantize(place.source, place.output, **given)
    assert raised.value.__notes__ == [f"`resume=True` goes on from '{place.work}'."]
    with monkeypatch.context() as patch:
        stop(patch, pipeline, "verify", 1, OutputError)
        with pytest.raises(OutputError):
            pipeline.quantize(place.source, place.output, **given, resume=True)
    pipeline.quantize(place.source, place.output, options=options.Options(**given, resume=True))
    assert place.written() == wanted


def test_without_calibration_there_is_no_work_directory(place: Place, tmp_path: Path) -> None:
    arguments = (place.source, "-o", place.output, *BASIC, "--work-dir", tmp_path / "w", "--resume")
    assert quantize(*arguments) == 0
    assert entries(tmp_path) == ["out", "source"]
