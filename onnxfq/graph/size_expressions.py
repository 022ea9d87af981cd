"""Sizes that follow from sizes nobody knows yet, without algebra: an expression is known by its values at some sizes.

Two expressions that have the same values at all of them count as one, and one that has the same value everywhere is
that number. So `batch · tokens · 768 / (batch · 768)` is `tokens`, however a graph writes it; and an open size equals
no number: what graphs do for the case that it does is not followed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from onnxfq.arrays import Array

Size: TypeAlias = "int | float | Expression | None"  # None where nothing is known
Lanes: TypeAlias = Any  # a number, or an array with one for each of the sizes that are tried at once
Compute = Callable[..., Lanes]

_LEAST, _MOST, _SAMPLES = 3, 5000, 24  # below every table of positions, and above most
_MOST_EXPRESSIONS = 10_000
_MOST_CONDITIONS = 1000
_NO_SAMPLE = np.zeros(0)


@dataclass(frozen=True, eq=False, slots=True)
class Expression:
    """What a graph computes from sizes.

    Attributes:
        index: its place in the order of making; arguments stand before what is made of them.
        sample: its values where the symbols have theirs.
        symbols: the unknown sizes it depends on.
        function: makes it of the arguments; works on numbers and on arrays of them.
        arguments: numbers and other expressions; none for a symbol.
    """

    index: int
    sample: Array = field(repr=False)
    symbols: frozenset[str]
    function: Compute | None = None
    arguments: tuple[Size, ...] = ()


class Expressions:
    """All expressions of a graph, and the conditions that must hold among them.

    Attributes:
        conditions: expressions that must be true, in the order of the graph.
    """

    def __init__(self) -> None:
        self.conditions: dict[Hashable, Expression] = {}
        self._known: dict[tuple[str, bytes], Expression] = {}
        self._symbols: dict[str, Expression] = {}
        self._grid = np.geomspace(_LEAST, _MOST, _SAMPLES)
        self._index = itertools.count()

    def symbol(self, name: str) -> Expression:
        """The unknown size of a name."""
        if name not in self._symbols:
            rng = np.random.default_rng(len(self._symbols))
            sample = (rng.permutation(self._grid) * rng.uniform(1, 1.3, _SAMPLES)).astype(np.int64)
            self._symbols[name] = self._add(Expression(next(self._index), sample, frozenset([name])))
        return self._symbols[name]

    def apply(self, function: Compute, *arguments: Size) -> Size:
        """What a function of sizes gives; nothing where one of them is unknown."""
        if any(a is None for a in arguments):
            return None
        value = np.asarray(function(*(a.sample if isinstance(a, Expression) else a for a in arguments)))
        if value.ndim == 0 or (value == value[0]).all():
            number: int | float = value.flat[0].item()
            return number if np.isfinite(number) else None
        found = self._known.get((value.dtype.char, value.tobytes()))
        if found is None and len(self._known) < _MOST_EXPRESSIONS:
            found = self._add(self._made(value, function, arguments))
        return found

    def _made(self, sample: Array, function: Compute, arguments: tuple[Size, ...]) -> Expression:
        symbols = frozenset().union(*(a.symbols for a in arguments if isinstance(a, Expression)))
        return Expression(next(self._index), sample, symbols, function, arguments)

    def _add(self, new: Expression) -> Expression:
        return self._known.setdefault((new.sample.dtype.char, new.sample.tobytes()), new)

    def require(self, function: Compute, *arguments: Size) -> None:
        """Note that a function of sizes must be true; nothing where one of them is unknown, or all are numbers."""
        if any(a is None for a in arguments) or not any(isinstance(a, Expression) for a in arguments):
            return
        key = (function, *(a.index if isinstance(a, Expression) else float(a or 0) for a in arguments))
        if key not in self.conditions and len(self.conditions) < _MOST_CONDITIONS:
            self.conditions[key] = self._made(_NO_SAMPLE, function, arguments)

    def product(self, *sizes: Size) -> Size:
        """All of them multiplied."""
        result: Size = 1
        for size in sizes:
            result = size if result == 1 else result if size == 1 else self.apply(np.multiply, result, size)
        return result

    def equal(self, one: Size, other: Size) -> Size:
        """Note that two sizes are the same; returns the one of which more is known."""
        if one is None or other is None or one is other:
            return other if one is None else one
        self.require(np.equal, one, other)
        return other if isinstance(one, Expression) and not isinstance(other, Expression) else one

    def broadcast(self, *shapes: tuple[Size, ...]) -> tuple[Size, ...]:
        """The shape of what is computed element by element; what differs from 1 must be equal."""
        rank = max(map(len, shapes), default=0)
        result: list[Size] = [1] * rank
        for shape in shapes:
            for axis, size in enumerate(shape, rank - len(shape)):
                result[axis] = self._broadcast(result[axis], size)
        return tuple(result)

    def _broadcast(self, one: Size, other: Size) -> Size:
        if one == 1 or other == 1:
            return other if one == 1 else one
        if one is None or other is None:  # an unknown size may be 1 beside a number, and anything beside an expression
            number = other if one is None else one
            return None if isinstance(number, Expression) else number
        return self.equal(one, other)


def evaluate(steps: list[Expression], values: Mapping[str, Array], made: dict[int, Array]) -> Array:
    """The value of the last of some expressions where symbols have other sizes.

    Args:
        steps: what `steps_to` gives.
        values: of each symbol.
        made: values of expressions by their index; grows.
    """
    for expression in steps:
        if expression.function is None:
            (name,) = expression.symbols
            made[expression.index] = values[name]
        else:
            arguments = (made[a.index] if isinstance(a, Expression) else a for a in expression.arguments)
            made[expression.index] = np.asarray(expression.function(*arguments))
    return made[steps[-1].index]


def steps_to(wanted: Expression, made: Mapping[int, Array]) -> list[Expression]:
    """An expression after all that it is made of and that has no value yet."""
    pending, found = [wanted], {wanted.index: wanted}
    while pending:
        for argument in pending.pop().arguments:
            if isinstance(argument, Expression) and argument.index not in made and argument.index not in found:
                found[argument.index] = argument
                pending.append(argument)
    return [found[index] for index in sorted(found)]
