"""The README's recipe for a pipeline does what it says."""

from __future__ import annotations

import re
import shlex
import shutil
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest

from onnxfq.cli import run
from tools.generate_decoder import Decoder, write_decoder

Output = pytest.CaptureFixture[str]
ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
(WORKFLOW,) = re.findall(r"^```yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
(SETTINGS,) = re.findall(r"^```toml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
RUN = re.compile(r"^( *)- run: (?:\|\n((?:\1    .*\n)+)|(.+)\n)", re.MULTILINE)


def steps() -> list[str]:
    """What the workflow runs, in order."""
    return [textwrap.dedent(block) if block else line for _, block, line in RUN.findall(WORKFLOW)]


def onnxfq(step: str) -> int:
    """Run a step, which must be one command of onnxfq; returns its exit code."""
    program, *arguments = shlex.split(step.replace("\\\n", " "))
    assert program == "onnxfq"
    return run(arguments)


def texts(folder: Path) -> None:
    """Calibration and held-back texts, of about 2000 tokens each."""
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    (folder / "texts.txt").write_text(licence[:6000], encoding="utf-8")
    (folder / "held-back.txt").write_text(licence[6000:], encoding="utf-8")


def test_the_workflow_has_the_steps_that_a_yaml_parser_finds() -> None:
    yaml = pytest.importorskip("yaml", reason="pip install pyyaml")
    (job,) = yaml.safe_load(WORKFLOW)["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == steps()


def test_the_workflow_installs_what_there_is() -> None:
    installed = [step for step in steps() if step.startswith("pip install ")]
    assert len(installed) == 1
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert shlex.split(installed[0])[2] == project["name"]


def test_the_workflow_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Output) -> None:
    write_decoder(tmp_path / "model", Decoder("opt", kv_heads=4, vocab=4096, dtype="float32"))  # solved in no time
    shutil.copyfile(ROOT / "models" / "opt-4m" / "tokenizer.json", tmp_path / "model" / "tokenizer.json")
    (tmp_path / "quantize.toml").write_text(SETTINGS, encoding="utf-8")
    texts(tmp_path)
    monkeypatch.chdir(tmp_path)
    ours = [step for step in steps() if not step.startswith("pip ")]
    assert len(ours) == 2
    assert onnxfq(ours[0]) == 0
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "report.html").stat().st_size > 1000
    used, asked = (tomllib.loads((tmp_path / name).read_text()) for name in ("used.toml", "quantize.toml"))
    assert {name: str(used[name]) for name in asked} == {name: str(value) for name, value in asked.items()}
    assert onnxfq(ours[1]) == 0
    capfd.readouterr()
    assert onnxfq(ours[1].replace("--max-kl 0.5", "--max-kl 0")) == 1
    assert "max-kl" in capfd.readouterr().err


def test_the_workflow_keeps_what_it_made() -> None:
    yaml = pytest.importorskip("yaml", reason="pip install pyyaml")
    (job,) = yaml.safe_load(WORKFLOW)["jobs"].values()
    (kept,) = (step["with"]["path"].split() for step in job["steps"] if "upload-artifact" in step.get("uses", ""))
    assert kept == ["model.int4.onnx*", "report.html", "used.toml"]
