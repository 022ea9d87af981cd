"""Which Einsum equations are one product of activations with a matrix, and how axes move around it.

btd,dhk->bthk   x [b t d] · W [d, h·k] → [b t h·k] → [b t h k]
bthk,hkd->btd   x [b t h k] → [b t h·k] · W [h·k, d]
bd,df->fb       x [b d] · W [d f] → [b f] → [f b]

Letters in both operands and not in the result are summed over: the inputs. Letters of the constant and the result are
the outputs, letters of the activations and the result its rows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_DOTS = "..."
_TERM = re.compile(r"[A-Za-z]*(\.\.\.)?[A-Za-z]*")


class OddEquationError(ValueError):
    """An equation that is no product with one matrix; why, for people."""


@dataclass(frozen=True, slots=True)
class Equation:
    """A product of activations with a constant.

    Attributes:
        weight: letters of the constant.
        inputs: those that are summed over, in the order of the activations.
        outputs: those that the constant adds to the result, in the order of the result.
        activations: letters of the activations, and "..." for any number of axes.
        result: likewise.
    """

    weight: str
    inputs: str
    outputs: str
    activations: tuple[str, ...]
    result: tuple[str, ...]

    @property
    def rows(self) -> tuple[str, ...]:
        """Axes that stay: in the order of the activations where these need not be turned, else of the result."""
        kept = self.result if self.turned else self.activations
        return tuple(token for token in kept if token not in (*self.inputs, *self.outputs))

    @property
    def turned(self) -> bool:
        """Whether the axes that are summed over are not the activations' last."""
        return self.activations[len(self.activations) - len(self.inputs) :] != tuple(self.inputs)


@dataclass(frozen=True, slots=True)
class Axes:
    """How axes move around a product of rows with a matrix.

    Attributes:
        operand: position of the activations among the node's inputs.
        before: the activations' axes in the order wanted, the inputs last; () where they stand so.
        rows: how many axes are no inputs; 0 where nothing depends on it.
        inputs: how many of the last axes become one.
        outputs: sizes of the axes that the product's last one becomes.
        after: the result's axes among those; () where they stand so.
        outputs_last: the outputs are the result's last axes.
    """

    operand: int
    before: tuple[int, ...]
    rows: int
    inputs: int
    outputs: tuple[int, ...]
    after: tuple[int, ...]
    outputs_last: bool


def read_equation(text: str, constant: int) -> Equation:
    """Read the equation of an Einsum of two operands.

    Args:
        text: the equation.
        constant: which operand is the constant.

    Raises:
        OddEquationError: it is more than a product with one matrix.
    """
    terms, arrow, given = "".join(text.split()).partition("->")
    operands = terms.split(",")
    if len(operands) != 2 or not all(_TERM.fullmatch(term) for term in (*operands, given)):
        raise OddEquationError("it cannot be read")
    weight, activations = operands[constant], _tokens(operands[1 - constant])
    result = _tokens(given) if arrow else _implied(operands)
    _refuse_odd(weight, activations, result)
    shared = [letter for letter in weight if letter in activations]
    inputs = "".join(token for token in activations if token in shared)
    return Equation(weight, inputs, "".join(t for t in result if t in weight), activations, result)


def arrange(equation: Equation, operand: int, sizes: Sequence[int], rank: int | None) -> Axes:
    """Say how axes move.

    Args:
        equation: what is computed.
        operand: position of the activations.
        sizes: of the constant's axes.
        rank: of the activations; None where nothing tells.

    Raises:
        OddEquationError: that depends on how many axes "..." stands for, which nothing tells.
    """
    rows, outputs = equation.rows, tuple(equation.outputs)
    lengths = tuple(sizes[equation.weight.index(letter)] for letter in outputs)
    before = (*rows, *equation.inputs)
    after = (*rows, *outputs)
    count, turned = len(equation.inputs), equation.turned
    moved = turned or after != equation.result
    if moved or count > 1 or len(outputs) > 1:
        hidden = _hidden(equation, rank)
        given, wanted = _spread(equation.activations, hidden), _spread(before, hidden)
        made, result = _spread(after, hidden), _spread(equation.result, hidden)
    else:
        given = wanted = made = result = ()
    return Axes(
        operand,
        tuple(given.index(token) for token in wanted) if turned else (),
        max(0, len(wanted) - count),
        count,
        lengths,
        tuple(made.index(token) for token in result) if made != result else (),
        equation.result[len(equation.result) - len(outputs) :] == outputs,
    )


def _tokens(term: str) -> tuple[str, ...]:
    first, dots, last = term.partition(_DOTS)
    return (*first, *([dots] if dots else ()), *last)


def _implied(operands: Sequence[str]) -> tuple[str, ...]:
    """The result where the equation names none: "...", then every letter that occurs once, in alphabetical order."""
    counts = Counter(letter for term in operands for letter in term.replace(_DOTS, ""))
    if len({letter.isupper() for letter in counts}) > 1:
        raise OddEquationError("it names no result, and readers order small and capital letters differently")
    dots = (_DOTS,) if any(_DOTS in term for term in operands) else ()
    return (*dots, *sorted(letter for letter, count in counts.items() if count == 1))


def _refuse_odd(weight: str, activations: Sequence[str], result: Sequence[str]) -> None:
    for term in (weight.replace(_DOTS, ""), activations, result):
        for token, count in Counter(term).items():
            if count > 1:
                raise OddEquationError(f"'{token}' stands twice in one of its terms")
    if _DOTS in weight:
        raise OddEquationError("its constant has axes that '...' stands for")
    if (_DOTS in activations) != (_DOTS in result):
        raise OddEquationError("'...' stands on one side only")
    unknown = [token for token in result if token not in weight and token not in activations]
    if unknown:
        raise OddEquationError(f"'{unknown[0]}' stands in its result alone")
    for letter in weight:
        if letter in activations and letter in result:
            raise OddEquationError(f"its constant is a batch of matrices, one for each '{letter}'")
        if letter not in activations and letter not in result:
            raise OddEquationError(f"'{letter}' is summed over in the constant alone")
    for token in activations:
        if token not in weight and token not in result:
            raise OddEquationError(f"'{token}' is summed over in the activations alone")
    if not any(letter in activations for letter in weight):
        raise OddEquationError("it sums over no axis of its constant")
    if not any(letter in result for letter in weight):
        raise OddEquationError("its constant is a vector: it adds no axis to the result")


def _hidden(equation: Equation, rank: int | None) -> int:
    """How many axes "..." stands for."""
    if _DOTS not in equation.activations:
        return 0
    count = None if rank is None else rank - len(equation.activations) + 1
    if count is None or count < 0:
        raise OddEquationError("nothing tells how many axes '...' stands for")
    return count


def _spread(tokens: Sequence[str], hidden: int) -> tuple[str, ...]:
    """Tokens with one for each axis that "..." stands for."""
    axes = [str(number) for number in range(hidden)]
    return tuple(axis for token in tokens for axis in (axes if token == _DOTS else [token]))
