"""Which sizes satisfy the conditions of a graph: tried out, all of them at once, since they are small whole numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import chain

import numpy as np

from onnxfq.arrays import Array
from onnxfq.graph.size_expressions import Expression, evaluate, steps_to
from onnxfq.signature import IMAGE_CHANNELS, IMAGE_SIDE, TensorSpec

_CANDIDATES = (1 << 12, 1 << 18)  # sizes up to these are tried: pixels and tokens, then samples of sound
_MOST_WORK = 1 << 23  # values computed, whatever the graph
_MOST_ROUNDS = 16
_LENGTH = 32  # what is usual: where it will do, a condition says nothing new
_LONGER, _WIDER = 16, 2  # times the least length or side, so that what remains of it is more than one token or pixel

_Axis = tuple[TensorSpec, int]
_Symbols = frozenset[str]


def solve(conditions: Iterable[Expression], axes: Mapping[str, _Axis]) -> dict[str, int]:
    """Sizes by symbol, where the conditions leave one, or rule out what is usual.

    First each symbol by itself; then one row at a time (axis 0 is 1, where nothing says otherwise); then two sides of
    an input as those of a square.

    Args:
        conditions: expressions that must be true.
        axes: the input and the axis where each symbol stands first.
    """
    solver = _SizeSearch(list(conditions), axes)
    solver.settle()
    rows = (symbol for symbol, (spec, axis) in axes.items() if axis == 0 and len(spec.shape or ()) > 1)
    solver.assumed = dict.fromkeys(rows, 1)
    solver.settle()
    while solver.square():
        solver.settle()
    return solver.found


class _SizeSearch:
    """Finds sizes, one symbol after the other.

    Attributes:
        found: sizes so far.
        assumed: sizes that stand for what nothing is known of.
    """

    def __init__(self, conditions: list[Expression], axes: Mapping[str, _Axis]) -> None:
        self.found: dict[str, int] = {}
        self.assumed: dict[str, int] = {}
        self._conditions, self._axes = conditions, axes
        self._tried: set[tuple[_Symbols, int]] = set()
        self._work = _MOST_WORK

    def settle(self) -> None:
        """Solve what depends on one symbol, and what then does."""
        for _ in range(_MOST_ROUNDS):
            groups = self._groups()
            solved = [self._solve(symbols, groups) for symbols in groups if len(symbols) == 1]
            if not any(solved):
                return

    def square(self) -> bool:
        """Solve what depends on two sides of one input; returns whether there was such a pair, with a solution."""
        groups = self._groups()
        return any(self._solve(symbols, groups) for symbols in groups if self._are_sides(symbols))

    def _are_sides(self, symbols: _Symbols) -> bool:
        places = [self._axes[symbol] for symbol in symbols]
        (spec, _), rank = places[0], len(places[0][0].shape or ())
        same = all(other is spec and axis > 0 for other, axis in places)
        return len(places) == 2 and same and rank >= 3 and "float" in spec.dtype

    def _groups(self) -> dict[_Symbols, list[Expression]]:
        """Conditions by the symbols in them whose size is not known yet."""
        known = self.found.keys() | self.assumed.keys()
        groups: defaultdict[_Symbols, list[Expression]] = defaultdict(list)
        for condition in self._conditions:
            groups[condition.symbols - known].append(condition)
        groups.pop(frozenset(), None)
        return groups

    def _solve(self, symbols: _Symbols, groups: Mapping[_Symbols, list[Expression]]) -> bool:
        """Find the one size of some symbols under the conditions on them alone; returns whether there is one."""
        parts = [*(frozenset([symbol]) for symbol in sorted(symbols)), symbols]
        conditions = list({id(c): c for c in chain.from_iterable(groups.get(part, ()) for part in parts)}.values())
        if (symbols, len(conditions)) in self._tried:
            return False
        self._tried.add((symbols, len(conditions)))
        spec, axis = self._axes[next(iter(sorted(symbols)))]
        valid = self._valid(symbols, conditions)
        size = None if valid is None else _choose(valid, _usual(spec, axis), _WIDER if _is_image(spec) else _LONGER)
        if size is None:
            return False
        self.found |= dict.fromkeys(symbols, size)
        return True

    def _valid(self, symbols: _Symbols, conditions: list[Expression]) -> Array | None:
        """Which sizes from 1 on satisfy the conditions: larger ones are tried where no small one satisfies them all."""
        best: tuple[int, Array] | None = None
        for most in _CANDIDATES:
            found = self._up_to(most, symbols, conditions)
            if found is not None and (best is None or found[0] < best[0]):
                best = found
            if best is None or best[0] == 0:
                break
        return None if best is None else best[1]

    def _up_to(self, most: int, symbols: _Symbols, conditions: list[Expression]) -> tuple[int, Array] | None:
        """How many conditions contradict those before them, and which sizes satisfy the others; None: too much work."""
        known = {name: np.array(size) for name, size in (self.assumed | self.found).items()}
        values = known | dict.fromkeys(symbols, np.arange(1, most + 1))
        made: dict[int, Array] = {}
        valid, contradictions = np.ones(most, np.bool_), 0
        for condition in conditions:
            steps = steps_to(condition, made)
            self._work -= len(steps) * most
            if self._work < 0:
                return None
            fits = valid & (evaluate(steps, values, made) != 0)
            valid, contradictions = (fits, contradictions) if fits.any() else (valid, contradictions + 1)
        return contradictions, valid


def _choose(valid: Array, usual: int, more: int) -> int | None:
    """The size to take of those that are valid; None where they leave open what is usual."""
    sizes = np.flatnonzero(valid) + 1
    first, last, most = int(sizes[0]), int(sizes[-1]), valid.size
    if len(sizes) == 1:
        return first
    bounded, as_usual = 2 * last < most, bool(usual <= most and valid[usual - 1])
    if as_usual:
        return usual if bounded and first > 1 else None
    if bounded and first == 1:
        return int(sizes[sizes <= usual][-1])
    if len(sizes) == most - first + 1:
        return more * first
    return _roundest(sizes, first if bounded else usual)


def _roundest(sizes: Array, least: int) -> int:
    """One of the first row of sizes from a least one on: windows round down, so that as many do as a window is wide."""
    rest = sizes[np.searchsorted(sizes, least) :] if least <= sizes[-1] else sizes[-1:]
    gaps = np.flatnonzero(np.diff(rest) > 1)
    end, width = int(rest[gaps[0]] if len(gaps) else rest[-1]), int(gaps[0] if len(gaps) else len(rest) - 1) + 1
    return end - end % width


def _usual(spec: TensorSpec, axis: int) -> int:
    if axis == 0:
        return 1
    if not _is_image(spec) or spec.shape is None:
        return _LENGTH
    channels_last = spec.shape[3] in (1, 3, 4)
    return IMAGE_CHANNELS if axis == (3 if channels_last else 1) else IMAGE_SIDE


def _is_image(spec: TensorSpec) -> bool:
    return "float" in spec.dtype and len(spec.shape or ()) == 4
