"""Examples in docstrings run and say the truth; every public name has one."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import onnxfq

ROOT = Path(__file__).resolve().parents[2]
NEEDS_MORE = {"onnxfq.harness", "onnxfq.__main__"}  # a package that [test] does not bring; a program
FINDER = doctest.DocTestFinder(recurse=True, exclude_empty=True)


def modules() -> list[ModuleType]:
    found = pkgutil.walk_packages(onnxfq.__path__, "onnxfq.")
    return [importlib.import_module(module.name) for module in found if module.name not in NEEDS_MORE]


def examples() -> list[doctest.DocTest]:
    tests = [test for module in modules() for test in FINDER.find(module, extraglobs={"onnxfq": onnxfq})]
    return [test for test in tests if test.examples]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where examples run: a model, what it was quantized to, the report, and a text."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(ROOT / "models" / "opt-4m", folder, dirs_exist_ok=True)
    shutil.copyfile(ROOT / "LICENSE", folder / "test.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        onnxfq.quantize("model.onnx", "model.int4.onnx").save("report.json")
        yield folder


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_examples_run(folder: Path, example: doctest.DocTest) -> None:
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    results = runner.run(example, out=told.append)
    assert results.attempted > 0
    assert results.failed == 0, "".join(told)


def test_every_public_name_has_an_example() -> None:
    shown = {example.name.split(".")[-1] for example in examples()}
    assert set(onnxfq.__all__) - {"__version__"} - shown == set()


def test_no_example_is_skipped() -> None:
    assert [test.name for test in examples() for example in test.examples if doctest.SKIP in example.options] == []
