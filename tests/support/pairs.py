"""Few combinations in which every two values meet."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any


def pairs(*axes: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Rows, one value of each axis, such that any two values of two axes stand together in one of them.

    For what a layer below tests in full: a failure of two settings together is found, one of three may not be. The rows
    are the same on every call.

    Args:
        *axes: two or more, each with its values.
    """
    everything = list(product(*axes))
    missing = {pair: None for row in everything for pair in _pairs(row)}
    chosen = []
    while missing:
        best = max(everything, key=lambda row: sum(pair in missing for pair in _pairs(row)))
        chosen.append(best)
        for pair in _pairs(best):
            missing.pop(pair, None)
    return chosen


def _pairs(row: tuple[Any, ...]) -> list[tuple[Any, Any]]:
    return list(combinations(enumerate(row), 2))
