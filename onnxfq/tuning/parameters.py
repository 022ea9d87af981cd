"""What is tuned: grids of weights whose codes stay, and vectors; each as changes in parts of its own size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from onnxfq.arrays import Array, Float32Array
from onnxfq.quantized import QuantizedWeight, round_scale

_MOST_MEDIANS = 3  # of a vector's size: few elements may be very large, such as what masks add
_SMALLEST = 1e-8  # size of a vector of zeros


class Parameter(Protocol):
    """Something that is fed and tuned."""

    def value(self) -> Float32Array:
        """What is fed."""

    def slope(self, gradient: Array) -> Float32Array:
        """The gradient of the changes, from that of what is fed."""

    def move(self, changes: Float32Array) -> None:
        """Take changes, in parts of what was there at first."""

    def changes(self) -> Float32Array:
        """Those so far."""


class TunedScales:
    """The scales of a weight.

    Args:
        q: the weight, in its kernel's blocks.
    """

    def __init__(self, q: QuantizedWeight) -> None:
        k, block_size = q.shape[1], q.block_size
        self._q = q
        self._starts = list(range(0, k, block_size))
        self._widths = [min(block_size, k - start) for start in self._starts]
        steps = q.codes.T.astype(np.float32)
        self._steps = np.subtract(steps, np.repeat(q.zero_point.T.astype(np.float32), self._widths, axis=0), order="C")
        self.move(np.zeros_like(q.scale))

    @property
    def quantized(self) -> QuantizedWeight:
        """The weight as it is now."""
        return replace(self._q, scale=self._scale)

    def value(self) -> Float32Array:
        """[K, N]."""
        return self._value

    def slope(self, gradient: Array) -> Float32Array:
        """[N, blocks] from [K, N]."""
        return np.asarray(np.add.reduceat(gradient * self._steps, self._starts, axis=0).T * self._q.scale)

    def move(self, changes: Float32Array) -> None:
        """See `Parameter.move`."""
        self._changes = changes
        self._scale = round_scale(self._q.scale * (1 + changes), "float32")
        self._value = self._steps * np.repeat(self._scale.T, self._widths, axis=0)

    def changes(self) -> Float32Array:
        """See `Parameter.changes`."""
        return self._changes


@dataclass(eq=False)
class TunedVector:
    """A bias, or what a normalization layer multiplies by or adds.

    Its size is the root of its mean square, or three times the median of what its elements are, if that is less.

    Attributes:
        vector: as it was at first.
    """

    vector: Float32Array

    def __post_init__(self) -> None:
        """Nothing has changed so far."""
        sizes = np.abs(self.vector.astype(np.float64))
        root, middle = float(np.sqrt(np.mean(sizes**2))), float(np.median(sizes))
        self._size = np.float32(max(_SMALLEST, min(root, _MOST_MEDIANS * middle) if middle else root))
        self._changes = np.zeros_like(self.vector)

    def value(self) -> Float32Array:
        """As it is now."""
        return np.asarray(self.vector + self._size * self._changes, np.float32)

    def slope(self, gradient: Array) -> Float32Array:
        """See `Parameter.slope`."""
        return np.asarray(gradient * self._size, np.float32)

    def move(self, changes: Float32Array) -> None:
        """See `Parameter.move`."""
        self._changes = changes

    def changes(self) -> Float32Array:
        """See `Parameter.changes`."""
        return self._changes
