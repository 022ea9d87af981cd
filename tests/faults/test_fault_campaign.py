"""A short version of `tools/faults.py`: kills, errors and changes at moments that a fixed seed chooses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools.faulting.judge import Judge, Tally
from tools.faulting.places import Place, write_model
from tools.faulting.runner import Run, has_strace

ROOT = Path(__file__).resolve().parents[2]
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: forks, signals and system calls")


def campaign(tmp_path: Path, place: str, *arguments: str) -> dict[str, Any]:
    out = tmp_path / "faults.json"
    command = [
        sys.executable,
        "tools/faults.py",
        "--seed",
        "1",
        "--out",
        str(out),
        "--places",
        "calibrated",
        *arguments,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert out.exists(), done.stderr
    result: dict[str, Any] = json.loads(out.read_text())
    assert result["losses"] == []
    assert done.returncode == 0
    return result


@linux
@pytest.mark.skipif(not has_strace(), reason="needs strace, and the right to trace")
def test_faults_in_system_calls_lose_nothing(tmp_path: Path) -> None:
    result = campaign(tmp_path, "plain", "--kills", "4", "--only", "kills-at-calls", "write-errors", "read-errors")
    assert result["faults"] >= 5
    assert result["kills"] >= 2
    assert result["left_out"] == []


@linux
def test_without_strace_faults_are_in_pythons_functions(tmp_path: Path) -> None:
    names = ("kills-at-calls", "write-errors", "read-errors")
    result = campaign(tmp_path, "plain-inline", "--kills", "4", "--no-strace", "--only", *names)
    assert result["faults"] + result["missed"] == 4
    assert result["kills"] >= 1
    assert len(result["left_out"]) == 2


@linux
def test_kills_and_changes_at_random_times_lose_nothing(tmp_path: Path) -> None:
    result = campaign(tmp_path, "calibrated", "--kills", "2", "--only", "kills-at-random", "changing-sources")
    assert set(result["outcomes"]) == {"kills at random times", "changing sources"}
    assert "numpy" in result["machine"]["versions"]


# The judge itself


def judged(tmp_path: Path, run: Run, **files: bytes) -> list[str]:
    """What the judge says of a run that left these files."""
    source = write_model(tmp_path / "home" / "m.onnx", external=False)
    out = tmp_path / "out"
    place = Place("x", source, source.parent, out, out / "out.onnx", [], wanted={"out.onnx": b"new"})
    place.old = {"out.onnx": b"old"}
    place.remember_source()
    place.reset(old=True)
    for name, data in files.items():
        (out / name.replace("_", ".")).write_bytes(data)
    tally = Tally()
    Judge(tally, None, "test").judge(place, run, "kind", "fault")  # type: ignore[arg-type]
    return [loss["what"] for loss in tally.losses]


@linux
def test_the_judge_sees_what_is_wrong(tmp_path: Path) -> None:
    told = f"Error: Cannot write '{tmp_path / 'out' / 'out.onnx'}' (Input/output error). Check the disk.\n"
    assert judged(tmp_path, Run(3, told, 0.0)) == []
    assert judged(tmp_path, Run(0, "", 0.0), out_onnx=b"new") == []
    assert judged(tmp_path, Run(-9, "", 0.0)) == []
    assert judged(tmp_path, Run(-9, "", 0.0), out_onnx=b"ne") == [
        "neither the old nor the new output is there: ['out.onnx']"
    ]
    assert judged(tmp_path, Run(0, "", 0.0)) == ["exit 0 without the new output"]
    assert judged(tmp_path, Run(3, told, 0.0), out_onnx=b"new") == [
        "the new output is there, and the message does not say so"
    ]
    assert judged(tmp_path, Run(3, "Traceback", 0.0)) == [
        "a traceback",
        "no message",
        "the message names no file",
        "the message names no remedy",
    ]
    assert judged(tmp_path, Run(3, told, 0.0), _out_onnx_lock=b"") == ["left behind without a word: ['.out.onnx.lock']"]
    assert judged(tmp_path, Run(120, "", 0.0)) == ["exit code 120"]
