"""A constant of any shape as a matrix: a row for each of its channels, which get a scale each."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnxfq.arrays import Array
from onnxfq.graph import Reshape, Transpose

Ints = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Channels:
    """How a constant is seen as a matrix [N, K].

    Attributes:
        shape: as its reader takes it.
        parts: the same elements with one of the axes split in two, where half of it counts; else `shape`.
        axes: of `parts`, whose every position is a channel.
    """

    shape: Ints
    parts: Ints
    axes: Ints

    @property
    def order(self) -> Ints:
        """The axes of `parts`, those of the channels first."""
        return (*self.axes, *(axis for axis in range(len(self.parts)) if axis not in self.axes))

    @property
    def ordered(self) -> Ints:
        """Sizes in that order."""
        return tuple(self.parts[axis] for axis in self.order)

    @property
    def back(self) -> Ints:
        """The permutation that undoes `order`; () where there is nothing to undo."""
        order = self.order
        return () if order == tuple(range(len(order))) else tuple(order.index(axis) for axis in range(len(order)))

    @property
    def n(self) -> int:
        """Channels."""
        return math.prod(self.parts[axis] for axis in self.axes)

    @property
    def k(self) -> int:
        """Weights of a channel."""
        return math.prod(self.shape) // max(1, self.n)

    @property
    def steps(self) -> tuple[Reshape | Transpose, ...]:
        """From the constant to the matrix."""
        return Reshape(self.parts), Transpose(self.order), Reshape((self.n, self.k))

    def restore(self, matrix: Array) -> Array:
        """From the matrix to the constant."""
        value = matrix.reshape(self.ordered)
        return (value.transpose(self.back) if self.back else value).reshape(self.shape)
