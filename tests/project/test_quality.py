"""Style, types and the direction of imports are tests like any other."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from support.checks import CHECKS

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


@pytest.mark.parametrize("check", CHECKS)
def test_passes(check: str) -> None:
    program, *arguments = shlex.split(CHECKS[check])
    command = [str(BIN / program), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_file_is_named_after_nothing() -> None:
    nameless = {"utils.py", "helpers.py", "common.py", "misc.py"}
    assert [p for p in ROOT.glob("onnxfq/**/*.py") if p.name in nameless] == []


def test_files_are_small() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in ROOT.glob("onnxfq/**/*.py")}
    assert {name: n for name, n in lengths.items() if n > 350} == {}
