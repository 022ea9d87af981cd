"""Every command and every example in the README runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
BLOCK = re.compile(r"^<!-- (ci|quick|slow|cuda) -->\n```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(kind, language, text) for kind, language, text in BLOCK.findall((ROOT / "README.md").read_text())]


def blocks(kind: str) -> list[tuple[str, str]]:
    return [(language, text) for k, language, text in BLOCKS if k == kind]


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A copy of what the README's commands work on."""
    for name in ("models", "benchmarks", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.int*.onnx*"))
    shutil.copyfile(ROOT / "LICENSE", tmp_path / "held-back.txt")
    return tmp_path


def run(language: str, text: str, folder: Path, **environment: str) -> None:
    command = ["bash", "-euo", "pipefail", "-c", text] if language == "bash" else [sys.executable, "-c", text]
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(folder), **environment}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


def test_every_block_is_marked() -> None:
    fences = re.findall(r"^```(bash|python)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(fences) == len(BLOCKS)


def test_ci_runs_the_two_commands_of_the_readme() -> None:
    commands = [line for _, text in blocks("ci") for line in text.splitlines()]
    model = "models/opt-4m/model.onnx"
    assert commands == [
        f"python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/onnxfq quantize {model}",
        ".venv/bin/pip install '.[test]' && .venv/bin/pytest",
    ]


@pytest.mark.parametrize(("language", "text"), blocks("quick"))
def test_quick_blocks_run(language: str, text: str, workplace: Path) -> None:
    run(language, text, workplace)


@pytest.mark.slow
@pytest.mark.parametrize(("language", "text"), blocks("slow"))
def test_slow_blocks_run(language: str, text: str, workplace: Path, request: pytest.FixtureRequest) -> None:
    environment = {"HF_HUB_OFFLINE": "1"}
    if "$LLM" in text:
        environment["LLM"] = str(request.getfixturevalue("checkpoint"))
    if "$ENCODER" in text:
        environment["ENCODER"] = str(request.getfixturevalue("minilm_checkpoint"))
    run(language, text, workplace, **environment)


@pytest.mark.cuda
@pytest.mark.parametrize(("language", "text"), blocks("cuda"))
def test_cuda_blocks_run(language: str, text: str, workplace: Path) -> None:
    run(language, text, workplace)


@pytest.mark.parametrize("command", ["quantize", "inspect", "evaluate", "benchmark", "export", "report", "doctor"])
def test_every_option_of_the_readme_exists(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "onnxfq", command, "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
        check=True,
    )
    used = {
        option
        for _, language, text in BLOCKS
        if language == "bash"
        for line in text.splitlines()
        if f"onnxfq {command}" in line
        for option in re.findall(r"(?<= )--[a-z-]+", line.split(f"onnxfq {command}")[1])
    }
    assert [option for option in used if option not in done.stdout] == []


def test_measurements_are_those_of_the_results() -> None:
    from benchmarks.tables import tables

    readme = (ROOT / "README.md").read_text()
    assert [table for table in tables() if table not in readme] == []
