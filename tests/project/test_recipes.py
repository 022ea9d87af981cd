"""The README's recipe for a pipeline does what it says."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
(WORKFLOW,) = re.findall(r"^```yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
(SETTINGS,) = re.findall(r"^```toml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
BIN = Path(sys.executable).parent
RUN = re.compile(r"^( *)- run: (?:\|\n((?:\1    .*\n)+)|(.+)\n)", re.MULTILINE)


def steps() -> list[str]:
    """What the workflow runs, in order."""
    return [textwrap.dedent(block) if block else line for _, block, line in RUN.findall(WORKFLOW)]


def bash(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT), **environment}
    script = f'onnxfq() {{ "{sys.executable}" -m onnxfq "$@"; }}\n{script}'
    command = ["bash", "-euo", "pipefail", "-c", script]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=900, check=False)


def texts(folder: Path) -> None:
    """Calibration and held-back texts, of about 2000 tokens each."""
    licence = (ROOT / "LICENSE").read_text()
    (folder / "texts.txt").write_text(licence[:6000])
    (folder / "held-back.txt").write_text(licence[6000:])


def test_the_workflow_has_the_steps_that_a_yaml_parser_finds() -> None:
    yaml = pytest.importorskip("yaml", reason="pip install pyyaml")
    (job,) = yaml.safe_load(WORKFLOW)["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == steps()


def test_the_workflow_installs_what_there_is() -> None:
    installed = [step for step in steps() if step.startswith("pip install ")]
    assert len(installed) == 1
    name, extra = re.fullmatch(r"(\w+)\[([\w-]+)\]", shlex.split(installed[0])[2]).groups()  # type: ignore[union-attr]
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert name == project["name"]
    assert extra in project["optional-dependencies"]


def test_the_workflow_runs(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "models" / "opt-4m", tmp_path / "model", ignore=shutil.ignore_patterns("*.int*.onnx*"))
    (tmp_path / "quantize.toml").write_text(SETTINGS)
    texts(tmp_path)
    ours = [step for step in steps() if not step.startswith("pip ")]
    assert len(ours) == 2
    quantized = bash(ours[0], tmp_path)
    assert (quantized.returncode, quantized.stdout + quantized.stderr) == (0, "")
    assert (tmp_path / "report.html").stat().st_size > 1000
    used, asked = (tomllib.loads((tmp_path / name).read_text()) for name in ("used.toml", "quantize.toml"))
    assert {name: str(used[name]) for name in asked} == {name: str(value) for name, value in asked.items()}
    evaluated = bash(ours[1], tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    failing = bash(ours[1].replace("--max-kl 0.5", "--max-kl 0"), tmp_path)
    assert failing.returncode == 1
    assert "max-kl" in failing.stderr
