"""Messages of the library name settings as Python spells them; only the command line knows options."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "onnxfq"
OPTION = re.compile(r"--([a-z]|$)|(?<![\w-])-o\b")
COMMAND_LINE = {"cli.py", "reports/recipe.py"}  # their subject is the command line


def options_named(path: Path) -> Iterator[str]:
    """Lines in whose texts an option stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and OPTION.search(node.value):
            yield f"{path.relative_to(PACKAGE)}:{node.lineno}"


def test_no_room_but_the_command_line_names_options() -> None:
    found: list[str] = []
    for path in PACKAGE.rglob("*.py"):
        inside = path.relative_to(PACKAGE)
        if inside.parts[0] != "commands" and inside.as_posix() not in COMMAND_LINE:
            found += options_named(path)
    assert found == []


@pytest.mark.parametrize("text", ["use --calib", "with -o.", "--", "(--max-kl)"])
def test_an_option_is_noticed(text: str) -> None:
    assert OPTION.search(text)


@pytest.mark.parametrize("text", ["a - b", "`output`", "a-o", "---- rule ----x".replace("-x", " x")])
def test_other_dashes_are_not(text: str) -> None:
    assert not OPTION.search(text)
