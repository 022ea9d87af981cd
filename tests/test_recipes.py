"""The recipes in `examples/` do what they say."""

from __future__ import annotations

import json
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

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
WORKFLOW = (EXAMPLES / "quantise.yml").read_text()
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
    shutil.copyfile(EXAMPLES / "quantise.toml", tmp_path / "quantise.toml")
    texts(tmp_path)
    ours = [step for step in steps() if not step.startswith("pip ")]
    assert len(ours) == 2
    quantised = bash(ours[0], tmp_path)
    assert (quantised.returncode, quantised.stdout + quantised.stderr) == (0, "")
    assert (tmp_path / "report.html").stat().st_size > 1000
    used, asked = (tomllib.loads((tmp_path / name).read_text()) for name in ("used.toml", "quantise.toml"))
    assert {name: str(used[name]) for name in asked} == {name: str(value) for name, value in asked.items()}
    evaluated = bash(ours[1], tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    failing = bash(ours[1].replace("--max-kl 0.5", "--max-kl 0"), tmp_path)
    assert failing.returncode == 1
    assert "max-kl" in failing.stderr


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL))
def test_the_readme_shows_the_workflow_as_it_is(block: str) -> None:
    assert block in WORKFLOW


@pytest.mark.slow
def test_export_quantise_evaluate_generate(tmp_path: Path, checkpoint: Path) -> None:
    pytest.importorskip("optimum.onnxruntime", reason="pip install 'onnxfq[export]'")
    texts(tmp_path)
    done = bash((EXAMPLES / "export_and_generate.sh").read_text(), tmp_path, LLM=str(checkpoint), HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.split()) > 4
    config = json.loads((tmp_path / "llm-int4" / "config.json").read_text())
    assert config["model_type"] == "llama"
