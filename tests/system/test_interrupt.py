"""Interrupted and crashing runs: the right exit code, and all as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from onnxfq import cli, pipeline
from onnxfq.quantization import data, solve_weights, source
from onnxfq.system.process import Interrupter
from support.tiny import QUICK, entries, pair, quantize

Output = pytest.CaptureFixture[str]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return pair(tmp_path / "m.onnx")


STAGES = ["prepare", "prepare_comparison", "solve", "save", "verify", "validate", "commit_files"]


@pytest.mark.parametrize("stage", STAGES)
def test_an_interruption_exits_with_130_and_leaves_all_as_it_was(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output, stage: str
) -> None:
    def interrupted(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    old = model.with_name("m.int4.onnx")
    old.write_text("the old output")
    home = {"prepare_comparison": data, "commit_files": source, "solve": solve_weights}.get(stage, pipeline)
    monkeypatch.setattr(home, stage, interrupted)
    assert quantize(model, "--algorithm", "rtn") == 130
    assert entries(model.parent) == ["m.int4.onnx", "m.onnx"]
    assert old.read_text() == "the old output"
    assert "Interrupted" in capsys.readouterr().err


def test_running_out_of_memory_is_told_as_such(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    def exhausted(*_args: object) -> None:
        raise MemoryError

    monkeypatch.setattr(solve_weights, "solve", exhausted)
    assert quantize(model, *QUICK) == 3
    assert "Out of memory" in capsys.readouterr().err
    assert entries(model.parent) == ["m.onnx"]


def test_a_crash_is_no_failed_gate(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    def broken(*_args: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(solve_weights, "solve", broken)
    monkeypatch.setattr(sys, "argv", ["onnxfq", "quantize", str(model), *QUICK])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 3
    err = capsys.readouterr().err
    assert "ZeroDivisionError: a bug" in err
    assert "Please report it" in err
    assert entries(model.parent) == ["m.onnx"]


WAITING = """
import signal, sys, time
from onnxfq import cli, pipeline
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests run in the background inherit that it is ignored
def wait(*_):
    print("ready", flush=True)
    for _ in range(600):  # a signal may reach another thread and would not end one long sleep
        time.sleep(0.1)
pipeline.verify = wait
cli.main()
"""


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize("signals", [[signal.SIGINT, signal.SIGINT], [signal.SIGTERM, signal.SIGINT]])
def test_signals_end_a_run_cleanly(model: Path, signals: list[signal.Signals]) -> None:
    command = [sys.executable, "-c", WAITING, "quantize", str(model), *QUICK]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        assert ".m.int4.onnx.partial" in entries(model.parent)
        for number in signals:
            process.send_signal(number)
        assert process.wait(30) == 130
        assert "Interrupted" in process.stderr.read()
    assert entries(model.parent) == ["m.onnx"]


DROPPED = """
import ctypes, os, signal, time
from onnxfq import cli, pipeline
@ctypes.CFUNCTYPE(None)
def callback():  # of a C library: Python drops what is raised in it
    os.kill(os.getpid(), signal.SIGTERM)
def wait(*_):
    callback()
    for _ in range(300):
        time.sleep(0.1)
pipeline.verify = wait
cli.main()
"""


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_a_signal_in_a_callback_of_a_library_is_not_lost(model: Path) -> None:
    command = [sys.executable, "-c", DROPPED, "quantize", str(model), *QUICK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 130
    assert "Interrupted" in done.stderr
    assert "Traceback" not in done.stderr
    assert entries(model.parent) == ["m.onnx"]


def test_other_exceptions_that_python_drops_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    dropped = SimpleNamespace(exc_type=ValueError)
    Interrupter().dropped(dropped)
    assert told == [dropped]


def test_from_the_third_signal_on_each_interrupts_again() -> None:
    interrupt = Interrupter()
    with pytest.raises(KeyboardInterrupt):
        interrupt(signal.SIGINT, None)
    interrupt(signal.SIGINT, None)  # while everything is cleaned up
    with pytest.raises(KeyboardInterrupt):
        interrupt(signal.SIGINT, None)
