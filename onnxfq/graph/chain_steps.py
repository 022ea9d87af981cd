"""What the nodes between a stored weight and its reader do to it, one step each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnxfq.arrays import Array

Ints = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Transpose:
    """A permutation of the dimensions."""

    perm: Ints

    def of(self, value: Array) -> Array:
        """The step taken."""
        return value.transpose(self.perm)

    def shape_of(self, shape: Ints) -> Ints:
        """The shape after it."""
        return tuple(shape[i] for i in self.perm)


@dataclass(frozen=True, slots=True)
class Reshape:
    """Other dimensions for the same elements."""

    shape: Ints

    def of(self, value: Array) -> Array:
        """The step taken."""
        return value.reshape(self.shape)

    def shape_of(self, shape: Ints) -> Ints:
        """The shape after it."""
        return self.shape


@dataclass(frozen=True, slots=True)
class Cut:
    """A part of an axis, from `start` to before `stop`."""

    axis: int
    start: int
    stop: int

    def of(self, value: Array) -> Array:
        """The step taken."""
        return value[(*[slice(None)] * self.axis, slice(self.start, self.stop))]

    def shape_of(self, shape: Ints) -> Ints:
        """The shape after it."""
        return (*shape[: self.axis], self.stop - self.start, *shape[self.axis + 1 :])


@dataclass(frozen=True, slots=True)
class Cast:
    """Another ONNX element type."""

    type: int


Shaping = Transpose | Reshape | Cut
ChainStep = Shaping | Cast


@dataclass(frozen=True, slots=True)
class Operands:
    """What is known of a node besides its attributes.

    Attributes:
        integers: the shape and the integers, flat, that an input holds, where they are constant and few.
        output: which of the node's outputs is followed.
    """

    integers: Callable[[int], tuple[Ints, Ints] | None]
    output: int = 0

    def __call__(self, index: int) -> Ints | None:
        """The integers that an input holds, where they are constant."""
        found = self.integers(index)
        return found[1] if found else None
