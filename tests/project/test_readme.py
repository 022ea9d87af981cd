"""Every command and every example in the README files and in CONTRIBUTING.md runs, and what they show is so."""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from onnxfq import solvers
from onnxfq.cli import run as run_cli
from onnxfq.rules import Rule
from support.checks import CHECKS

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
README = ROOT / "README.md"
DOCUMENTS = [
    README,
    ROOT / ".github" / "CONTRIBUTING.md",
    *sorted(path for depth in ("*", "*/*") for path in ROOT.glob(f"{depth}/README.md") if "/." not in str(path)),
]
# quick: run by every test run. slow, cuda: with that mark; genai, node: with slow, where that is installed. Elsewhere:
# ci by `.ci/run`, checks by test_quality.py, workflow by test_recipes.py.
KINDS = "ci|quick|slow|cuda|genai|node|checks|workflow"
BLOCK = re.compile(rf"^<!-- ({KINDS}) -->\n```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHOWN = re.compile(r"^```text\n\$ (onnxfq .*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPT_4M_SIZE = re.compile(r"\d+\.\d+ MB → \d+\.\d+ MB <!-- opt-4m:size -->")
CODE_LANGUAGES = "bash|python|toml|yaml"
NOT_PLAIN = re.compile(r"[|$<`;&]|>.*>")  # what only a shell understands; one `> FILE` is understood here


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a document, with the mark before it."""

    document: str
    line: int
    kind: str
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """Lines that a shell would run, continued ones joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.strip() and not line.startswith("#")]

    @property
    def plain(self) -> bool:
        """Whether nothing but `onnxfq …` is in it: one process can run it."""
        return self.language == "bash" and all(
            line.startswith("onnxfq ") and not NOT_PLAIN.search(line) for line in self.commands
        )

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def read_blocks(path: Path) -> list[Block]:
    text, name = path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))
    return [Block(name, text.count("\n", 0, m.start()) + 1, *m.groups()) for m in BLOCK.finditer(text)]


BLOCKS = [block for path in DOCUMENTS for block in read_blocks(path)]


def blocks(kind: str) -> list[Block]:
    return [block for block in BLOCKS if block.kind == kind]


# Running


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what the documents' commands work on."""
    for name in ("models", "benchmarks", "tools", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "*.int*.onnx*")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    (tmp_path / "texts.txt").write_text(licence[:6000], encoding="utf-8")
    (tmp_path / "held-back.txt").write_text(licence[6000:], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(solvers, "SOLVERS", dict(solvers.SOLVERS))  # examples add to it
    return tmp_path


def run(block: Block, folder: Path, **environment: str) -> None:
    if block.plain:
        for command in block.commands:
            run_here(command)
    elif block.language == "python":
        (folder / "example.py").write_text(block.text, encoding="utf-8")
        runpy.run_path("example.py")
    elif block.language == "toml":
        (folder / "settings.toml").write_text(block.text, encoding="utf-8")
        run_here("onnxfq quantize models/opt-4m/model.onnx -o opt.onnx --config settings.toml")
    else:
        run_in_a_shell(block.text, folder, **environment)


def run_here(command: str) -> None:
    """Run `onnxfq … [> FILE]` in this process."""
    words = shlex.split(command, comments=True)[1:]
    with contextlib.ExitStack() as stack:
        if ">" in words:
            words, (target,) = words[: words.index(">")], words[words.index(">") + 1 :]
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(Path(target).open("w"))))
        assert run_cli(words) == 0, command


def run_in_a_shell(text: str, folder: Path, **environment: str) -> None:
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    python_path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PATH": path, "PYTHONPATH": python_path, **environment}
    command = ["bash", "-euo", "pipefail", "-c", text]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("block", blocks("quick"), ids=str)
def test_quick_blocks_run(block: Block, workplace: Path) -> None:
    run(block, workplace)


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("slow"), ids=str)
def test_slow_blocks_run(block: Block, workplace: Path, request: pytest.FixtureRequest) -> None:
    environment = {"HF_HUB_OFFLINE": "1"}
    if "$LLM" in block.text:
        environment["LLM"] = str(request.getfixturevalue("checkpoint"))
    if "$ENCODER" in block.text:
        environment["ENCODER"] = str(request.getfixturevalue("minilm_checkpoint"))
    run(block, workplace, **environment)


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("genai"), ids=str)
def test_blocks_run_with_onnxruntime_genai(block: Block, genai: Path, checkpoint: Path, workplace: Path) -> None:
    (workplace / "genai").symlink_to(genai)
    run(block, workplace, HF_HUB_OFFLINE="1", LLM=str(checkpoint))


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("node"), ids=str)
def test_blocks_run_with_transformers_js(
    block: Block, transformers_js: Path, checkpoint: Path, workplace: Path
) -> None:
    (workplace / "node_modules").symlink_to(transformers_js / "node_modules")
    run(block, workplace, HF_HUB_OFFLINE="1", LLM=str(checkpoint))


@pytest.mark.cuda
@pytest.mark.parametrize("block", blocks("cuda"), ids=str)
def test_cuda_blocks_run(block: Block, workplace: Path) -> None:
    run(block, workplace)


# What the documents say


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_block_is_marked(path: Path) -> None:
    fences = re.findall(rf"^```(?:{CODE_LANGUAGES})$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) == len(read_blocks(path))


def test_ci_runs_the_two_commands_of_the_readme() -> None:
    commands = [command for block in blocks("ci") for command in block.commands]
    model = "models/opt-4m/model.onnx"
    assert commands == [
        f"python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/onnxfq quantize {model}",
        ".venv/bin/pip install '.[test]' && .venv/bin/pytest",
    ]


def test_checks_are_those_that_the_tests_make() -> None:
    (block,) = blocks("checks")
    assert block.commands == list(CHECKS.values())


@pytest.mark.parametrize("command", ["quantize", "inspect", "evaluate", "benchmark", "export", "report", "doctor"])
def test_every_option_of_the_documents_exists(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        assert run_cli([command, "--help"]) == 0
    known = capsys.readouterr().out
    lines = [line for block in BLOCKS if block.language == "bash" for line in block.commands]
    used = {
        option
        for line in lines
        if f"onnxfq {command}" in line
        for option in re.findall(r"(?<= )--[a-z-]+", line.split(f"onnxfq {command}")[1])
    }
    assert [option for option in used if option not in known] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_are_named_exist(path: Path) -> None:
    """Names with a folder, in backticks, of files that are kept here."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    kept = r"`((?:onnxfq|tests|tools|benchmarks|models|\.github|\.ci)/[\w./-]*)`"
    written = {"models/opt-4m/model.int4.onnx"}
    assert [name for name in re.findall(kept, text) if name not in written and not (ROOT / name).exists()] == []


def test_the_readme_is_a_page() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 200


def test_what_the_first_command_prints_is_what_the_readme_shows(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sizes and counts as they are, of figures that depend on the machine the names only."""
    monkeypatch.setenv("COLUMNS", "120")
    (shown,) = SHOWN.findall(README.read_text(encoding="utf-8"))
    run_here(shown[0])
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    for line in (line for line in shown[1].splitlines() if line.strip(" ─")):
        words = line.split()
        measured = line.lstrip().startswith(("time,", "logits"))
        assert words[:1] in [p[:1] for p in printed] if measured else words in printed, line
    written = workplace / "models/opt-4m/model.int4.onnx"
    sizes = [file.stat().st_size for file in (written.with_name("model.onnx"), written)]
    (said,) = OPT_4M_SIZE.findall(README.read_text(encoding="utf-8"))
    assert said.startswith(" → ".join(f"{size / 1e6:.2f} MB" for size in sizes))


def test_the_readme_s_measurements_are_those_of_the_results() -> None:
    from benchmarks.tables import summary

    text = README.read_text(encoding="utf-8")
    (size,) = OPT_4M_SIZE.findall(text)
    assert summary(size) in text


def test_the_guide_names_every_room_in_the_order_of_the_layers() -> None:
    guide = (ROOT / "onnxfq" / "README.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `onnxfq/(\w+)/` \|", guide, re.MULTILINE)
    assert sorted(told) == sorted(path.parent.name for path in ROOT.glob("onnxfq/*/__init__.py"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    floors = next(c["layers"] for c in project["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    depth = {name.removeprefix("onnxfq."): i for i, floor in enumerate(floors) for name in floor.split(" | ")}
    assert [depth[room] for room in told] == sorted(depth[room] for room in told)


def test_the_guide_names_members_that_there_are() -> None:
    guide = (ROOT / "onnxfq" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \|", guide[guide.index("| member |") : guide.index("### An evaluation task")], re.M)
    members = {name for row in rows for name in re.findall(r"`(\w+)", row)}
    assert {"match", "kernel", "pack", "rewrite", "probe"} <= members
    assert [name for name in members if name not in {*dir(Rule), *Rule.__annotations__}] == []
    abstract = {name for name in dir(Rule) if getattr(getattr(Rule, name), "__isabstractmethod__", False)}
    assert abstract <= members


# Files that run what the documents say


def test_the_project_s_workflow_runs_the_two_commands_on_every_supported_python() -> None:
    workflow = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    assert re.findall(r"^ +- run: (.+)$", workflow, re.MULTILINE) == ["bash .ci/run"]
    assert (ROOT / ".ci/run").exists()
    (versions,) = re.findall(r"python-version: \[(.+)\]", workflow)
    assert re.findall(r"3\.\d+", versions) == ["3.11", "3.12", "3.13"]
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    assert oldest == ">=3.11"


def test_hooks_are_checks_that_the_tests_make() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    entries = dict(zip(re.findall(r"- id: (.+)", hooks), re.findall(r"entry: (.+)", hooks), strict=True))
    assert entries == {name: CHECKS[name] for name in ("ruff", "format", "mypy")}
    assert hooks.count("language: system") == len(entries)
