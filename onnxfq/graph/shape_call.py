"""One node as the functions of `shape_operators.py` see it: what is known of its inputs, and its attributes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from onnxfq.arrays import Array
from onnxfq.graph.bodies import Node
from onnxfq.graph.size_expressions import Compute, Expressions, Size

Dims: TypeAlias = tuple[Size, ...]
MOST_VALUES = 64  # of a tensor whose values are followed: shapes, axes, pads


class Untold(Exception):  # noqa: N818 - no error: an output of which nothing is known
    """What a node gives cannot be told."""


@dataclass(frozen=True, slots=True)
class Inferred:
    """What is known of a value.

    Attributes:
        shape: its sizes; None where not even the rank is known.
        data: its elements (an array of sizes), where it is small and they follow from sizes.
    """

    shape: Dims | None = None
    data: Array | None = None


UNKNOWN = Inferred()


def as_data(values: object) -> Array:
    """An array of sizes."""
    return np.array(values, object)


@dataclass(frozen=True, slots=True)
class ShapeCall:
    """A node and what is known of its inputs.

    Attributes:
        node: the node.
        inputs: of which the last may be missing.
        sizes: makes expressions and takes conditions.
    """

    node: Node
    inputs: Sequence[Inferred]
    sizes: Expressions

    def shape(self, index: int = 0, rank: int | None = None) -> Dims:
        """The shape of an input, of a certain rank if given.

        Raises:
            Untold: it is not known.
        """
        shape = self.inputs[index].shape if index < len(self.inputs) else None
        if shape is None or (rank is not None and len(shape) != rank):
            raise Untold
        return shape

    def known_shape(self, index: int) -> Dims | None:
        """The shape of an input; None where it is missing or not known."""
        return self.inputs[index].shape if index < len(self.inputs) else None

    def data(self, index: int) -> Array:
        """The elements of an input.

        Raises:
            Untold: they are not known.
        """
        data = self.inputs[index].data if index < len(self.inputs) else None
        if data is None:
            raise Untold
        return data

    def has(self, index: int) -> bool:
        """Whether an optional input is given."""
        return index < len(self.node.inputs) and bool(self.node.inputs[index])

    def numbers(self, name: str, index: int, default: Iterable[Size] | None = None) -> list[Size]:
        """What stands in an attribute (older operator sets) or else in an input, as a list.

        Raises:
            Untold: it is not known, or missing where there is no default.
        """
        if self.node.has(name):
            listed = self.node.integers(name)
            return [self.node.integer(name, 0)] if listed is None else list(listed)
        if not self.has(index):
            if default is None:
                raise Untold
            return list(default)
        return list(self.data(index).ravel())

    def axes(self, index: int, rank: int, default: Iterable[Size] | None = None, name: str = "axes") -> list[int]:
        """Axes that a node names, counted from the front.

        Raises:
            Untold: they are not known.
        """
        return [axis_of(axis, rank) for axis in self.numbers(name, index, default)]

    def axis(self, default: int, rank: int, name: str = "axis") -> int:
        """The axis that an attribute names, counted from the front.

        Raises:
            Untold: there is no such axis.
        """
        return axis_of(self.node.integer(name, default), rank)

    def compute(self, function: Compute, *arrays: Array) -> Array | None:
        """Elements computed from those of several arrays; None where they are too many."""
        pairs = np.broadcast(*arrays)
        if pairs.size > MOST_VALUES:
            return None
        return as_data([self.sizes.apply(function, *items) for items in pairs]).reshape(pairs.shape)


def axis_of(axis: Size, rank: int) -> int:
    """An axis counted from the front.

    Raises:
        Untold: it is not known, or there is none.
    """
    if not isinstance(axis, int) or not -rank <= axis < rank:
        raise Untold
    return axis % rank


def unknown_sizes(call: ShapeCall, index: int) -> Dims:
    """As many unknown sizes as an input, a shape, has elements.

    Raises:
        Untold: it is not known how many.
    """
    (count,) = call.shape(index, 1)
    if not isinstance(count, int) or count > MOST_VALUES:
        raise Untold
    return (None,) * count
