"""One word, one thing: no two classes and no two files of onnxfq have the same name."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "onnxfq"
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py"]


def repeated(names: Iterator[tuple[str, str]]) -> dict[str, list[str]]:
    """Names, private ones without their underscore, that stand in several places."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for name, place in names:
        places[name.lstrip("_")].append(place)
    return {name: found for name, found in places.items() if len(found) > 1}


def classes() -> Iterator[tuple[str, str]]:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                yield node.name, f"{path.relative_to(PACKAGE)}:{node.lineno}"


def test_classes_have_names_of_their_own() -> None:
    assert len(list(classes())) > 50
    assert repeated(classes()) == {}


def test_files_have_names_of_their_own() -> None:
    assert repeated((path.stem, str(path.relative_to(PACKAGE))) for path in FILES if path.stem != "__main__") == {}
