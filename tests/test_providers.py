"""Facts about providers: one row each, and nobody else who knows them by name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from onnxfq.providers import FALLBACK, PROVIDERS, ProviderName, facts

PACKAGE = Path(__file__).resolve().parents[1] / "onnxfq"
MAY_NAME_PROVIDERS = ("providers.py", "rules/matmul_nbits_kernels.py")  # facts, and tables of kernels


def comparisons(path: Path) -> Iterator[str]:
    """Lines that compare something with a provider's name."""
    for node in ast.walk(ast.parse(path.read_text())):
        inside = ast.walk(node) if isinstance(node, ast.Compare | ast.MatchValue) else ()
        if any(isinstance(part, ast.Constant) and part.value in PROVIDERS for part in inside):
            yield f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"


def test_every_name_has_a_row() -> None:
    assert tuple(PROVIDERS) == get_args(ProviderName)
    assert len({provider.ort_name for provider in PROVIDERS.values()}) == len(PROVIDERS)


def test_what_runs_everywhere_is_the_least_preferred() -> None:
    assert facts(FALLBACK).built_in
    assert next(iter(PROVIDERS)) == FALLBACK


def test_what_may_not_run_says_what_to_do_about_it() -> None:
    assert all(provider.built_in != bool(provider.remedy) for provider in PROVIDERS.values())


@pytest.mark.parametrize("name", PROVIDERS)
def test_facts_are_those_of_the_row(name: ProviderName) -> None:
    assert facts(name) is PROVIDERS[name]


def test_nobody_compares_a_providers_name() -> None:
    files = (path for path in PACKAGE.rglob("*.py") if str(path.relative_to(PACKAGE)) not in MAY_NAME_PROVIDERS)
    assert [line for path in files for line in comparisons(path)] == []
