"""Messages that nobody reads, or that fit on no disk: they end no run, and exit codes stay what they mean."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.tiny import QUICK, entries, pair, quantize

posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX")
full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")


@posix
@pytest.mark.parametrize(
    "streams",
    ["2>&-", "<&- >&- 2>&-", *(pytest.param(f"{n}>/dev/full", marks=full) for n in (1, 2)), "closed pipe"],
)
def test_a_run_that_nobody_listens_to_succeeds(tmp_path: Path, streams: str) -> None:
    model = pair(tmp_path / "m.onnx")
    command = [sys.executable, "-m", "onnxfq", "quantize", str(model), "-o", str(tmp_path / "out.onnx"), *QUICK]
    if streams == "closed pipe":
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(command, stdout=write, stderr=write, check=False)
        os.close(write)
    else:
        done = subprocess.run(["sh", "-c", f'exec "$@" {streams}', "sh", *command], check=False)
    assert done.returncode == 0
    assert entries(tmp_path) == ["m.onnx", "out.onnx"]
    assert quantize(model, "-o", tmp_path / "again.onnx", *QUICK) == 0
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "again.onnx").read_bytes()


@full
@posix
def test_json_that_cannot_be_printed_is_told_and_costs_no_result(tmp_path: Path) -> None:
    model = pair(tmp_path / "m.onnx")
    command = [sys.executable, "-m", "onnxfq", "quantize", str(model), *QUICK, "--json"]
    command += ["--report", str(tmp_path / "r.json")]
    with Path("/dev/full").open("w") as stdout:
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == (
        f"Error: Cannot write to stdout (No space left on device). The model is complete: '{tmp_path / 'm.int4.onnx'}'."
    )
    assert entries(tmp_path) == ["m.int4.onnx", "m.onnx", "r.json"]
