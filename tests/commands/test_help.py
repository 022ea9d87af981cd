"""Help: options in panels, examples that are accepted as they stand, and completion."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import pytest
import typer.main
from typer.core import TyperOption

from onnxfq import cli
from onnxfq.commands.panels import EXAMPLES, PANELS, examples
from onnxfq.machines import AUTO, MACHINES

COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
Output = pytest.CaptureFixture[str]


def test_every_option_of_a_panel_exists_and_is_in_one_only() -> None:
    listed = [name for names in PANELS.values() for name in names]
    assert len(listed) == len(set(listed))
    there = {param.name for command in COMMANDS.values() for param in command.params}
    assert set(listed) - there == set()


def test_targets_that_are_shown_are_all_that_there_are() -> None:
    (target,) = (param for param in COMMANDS["quantize"].params if param.name == "target")
    assert str(target.metavar).split("|") == [AUTO, *MACHINES]


@pytest.mark.parametrize("verb", EXAMPLES)
def test_few_options_are_left_without_a_panel(verb: str) -> None:
    options = [param for param in COMMANDS[verb].params if isinstance(param, TyperOption)]
    panels = {str(option.name): option.rich_help_panel for option in options}
    assert {name for name, panel in panels.items() if panel is None} <= {"output", "help", "baseline", "task", "dtype"}


@pytest.mark.parametrize("verb", EXAMPLES)
def test_examples_are_accepted_and_shown(verb: str, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    assert len(EXAMPLES[verb]) == 3
    for line in EXAMPLES[verb]:
        program, given, *arguments = shlex.split(line)
        assert (program, given) == ("onnxfq", verb)
        COMMANDS[verb].make_context(verb, arguments)
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.run([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert [line for line in examples(verb).split("\n\n") if line not in shown] == []


def completed(line: str) -> list[str]:
    asked = {"_ONNXFQ_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    environment = {**os.environ, **asked}
    command = [sys.executable, "-m", "onnxfq"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.split()


def test_the_shell_completes() -> None:
    assert completed("onnxfq quan") == ["quantize"]
    assert completed("onnxfq quantize --calib") == ["--calib"]
    assert completed("onnxfq quantize m.onnx --activations fl") == ["float"]


def test_completion_is_offered(capsys: Output) -> None:
    assert cli.run(["--help"]) == 0
    assert "--install-completion" in capsys.readouterr().out
