"""Calibrated runs that are cut off at any moment, and what `--resume` makes of what they left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from onnxfq import pipeline
from onnxfq.calibration.streams import Streams
from onnxfq.quantization import source
from support.resuming import STAGES, Place, interrupted, record, stages, stop, uninterrupted
from support.tiny import contents, entries

Output = pytest.CaptureFixture[str]
posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return uninterrupted(tmp_path_factory.mktemp("whole"))


# Killed


KILLED = """
import os, signal, sys
from itertools import count
from onnxfq import cli, pipeline
from onnxfq.system import output
from onnxfq.calibration import checkpoint, streams
from onnxfq.quantization import source
what, at = sys.argv.pop(1).split(":")
*path, name = what.split(".")
home = globals()[path[0]] if path[0] in globals() else sys.modules[checkpoint.__module__]
for inner in path[1:]:
    home = getattr(home, inner)
real, calls = getattr(home, name), count(1)
def dying(*args, **kwargs):
    if next(calls) == int(at):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
setattr(home, name, dying)
cli.main()
"""
MOMENTS = {
    "before the first stage": ("streams.Streams.advance:1", 0),
    "while the second stage is written": ("os.fsync:4", 1),
    "while the third is measured": ("streams.Gram.add:58", 2),
    "after all stages": ("pipeline.save:1", STAGES),
    "just before the output is moved into place": ("source.commit_files:1", STAGES),
}


@posix
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_is_resumed_to_the_same_bytes(place: Place, wanted: dict[str, bytes], moment: str) -> None:
    hook, finished = MOMENTS[moment]
    command = [sys.executable, "-c", KILLED, hook, "quantize", *place.arguments("--memory", "0")]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -signal.SIGKILL
    assert not place.output.exists()
    assert contents(place.source.parent) == place.before
    assert entries(place.folder) == [".out.onnx.lock", ".out.onnx.partial", "out.onnx.work"]
    assert len(stages(place.work)) == finished
    assert place.run("--resume") == 0
    assert place.written() == wanted


@posix
def test_a_run_killed_from_outside_at_any_moment(place: Place, wanted: dict[str, bytes]) -> None:
    command = [sys.executable, "-m", "onnxfq", "quantize", *place.arguments("--resume")]
    for seen in range(1, STAGES, 2):  # each run goes on where the one before was killed
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and len(stages(place.work)) < seen:
                time.sleep(0.001)
            process.kill()
        if process.returncode == 0:
            break
    assert place.run("--resume") == 0
    assert place.written() == wanted


def test_only_unfinished_stages_are_solved_again(
    place: Place, wanted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    interrupted(place, monkeypatch, at=4)
    capsys.readouterr()
    saved = record(monkeypatch)
    assert place.run("--resume") == 0
    assert saved == [3]
    assert f"Resuming: 3 finished stages were found in '{place.work}'." in capsys.readouterr().err
    assert place.written() == wanted


def test_a_damaged_stage_is_solved_again(
    place: Place, wanted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(place, monkeypatch, at=4)
    file = place.work / "stage-00001.npz"
    file.write_bytes(file.read_bytes()[:-100])
    assert place.run("--resume") == 0
    assert place.written() == wanted


def test_a_full_disk_during_calibration_is_resumed(
    place: Place, wanted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    with monkeypatch.context() as patch:
        stop(patch, os, "fsync", 5, OSError)
        assert place.run() == 3
    err = capsys.readouterr().err
    assert "Cannot write" in err
    assert f"--resume goes on from '{place.work}'." in err
    assert len(stages(place.work)) == 2
    assert place.run("--resume") == 0
    assert place.written() == wanted


def test_a_full_disk_for_the_output_names_what_can_be_resumed(
    place: Place, wanted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    with monkeypatch.context() as patch:
        stop(patch, pipeline, "save", 1, OSError)
        assert place.run() == 3
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"--resume goes on from '{place.work}'.")
    assert place.run("--resume") == 0
    assert place.written() == wanted


# Interrupted


def test_an_interruption_names_what_can_be_resumed(
    place: Place, wanted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    interrupted(place, monkeypatch)
    wanted_message = "Interrupted: nothing half-written was left behind. --resume goes on from "
    assert capsys.readouterr().err.splitlines()[-1] == f"{wanted_message}'{place.work}'."
    assert entries(place.folder) == ["out.onnx.work"]
    assert entries(place.work) == ["onnxfq-work.json", "stage-00000.npz", "stage-00001.npz"]
    assert place.run("--resume") == 0
    assert place.written() == wanted


@pytest.mark.parametrize("stage", ["save", "verify", "commit_files"])
def test_an_interruption_after_all_stages_keeps_them(
    place: Place, wanted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capsys: Output, stage: str
) -> None:
    with monkeypatch.context() as patch:
        stop(patch, source if stage == "commit_files" else pipeline, stage, 1, KeyboardInterrupt)
        assert place.run() == 130
    assert ("--resume goes on from" in capsys.readouterr().err) == (stage != "commit_files")
    assert len(stages(place.work)) == STAGES
    assert place.run("--resume") == 0
    assert place.written() == wanted


@pytest.mark.parametrize("chosen", [False, True])
def test_an_interruption_before_the_first_stage_leaves_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Output, chosen: bool
) -> None:
    more = ("--work-dir", place.folder / "a" / "w") if chosen else ()
    stop(monkeypatch, Streams, "advance", 1, KeyboardInterrupt)
    assert place.run("--memory", "0", *more) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "Interrupted: nothing half-written was left behind."
    assert entries(place.folder) == []


WAITING = """
import signal, sys, time
from itertools import count
from onnxfq import cli
from onnxfq.calibration.checkpoint import Checkpoint
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests run in the background inherit that it is ignored
real, calls = Checkpoint.save, count(1)
def wait(*args):
    if next(calls) == 3:
        print("ready", flush=True)
        for _ in range(600):  # a signal may reach another thread and would not end one long sleep
            time.sleep(0.1)
    return real(*args)
Checkpoint.save = wait
cli.main()
"""


@posix
def test_signals_and_a_second_run_at_the_same_time(place: Place, wanted: dict[str, bytes], capsys: Output) -> None:
    work = place.folder / "w"
    command = [sys.executable, "-c", WAITING, "quantize", *place.arguments("--work-dir", work)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        assert place.run("--work-dir", work) == 3
        assert "Another run is writing" in capsys.readouterr().err
        before = contents(work)
        for more in ((), ("--resume",)):
            assert place.run("-o", place.folder / "other.onnx", "--work-dir", work, *more) == 3
            assert f"Another run is using the work directory '{work}'" in capsys.readouterr().err
        assert contents(work) == before
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert f"--resume goes on from '{work}'" in process.stderr.read()
    assert entries(place.folder) == ["w"]
    assert len(stages(work)) == 2
    assert place.run("--work-dir", work, "--resume") == 0
    assert place.output.read_bytes() == wanted["out.onnx"]
