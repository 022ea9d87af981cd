"""Steps down a noisy slope."""

from __future__ import annotations

import math

import numpy as np

from onnxfq.arrays import Float32Array, Float64Array

_MEAN, _SQUARE = 0.9, 0.99  # of what a moment was before, kept at each step
_SMALLEST = 1e-12
_WARM = 0.05  # of all steps, in which the rate grows from 0; then it falls along half a cosine


class Adam:
    """Steps of a size that hardly depends on the slope's.

    Source: Kingma and Ba, "Adam: a method for stochastic optimization", 2015.

    Args:
        rate: the largest step.
        steps: how many there will be.
    """

    def __init__(self, rate: float, steps: int) -> None:
        self._rate, self._steps, self._done = rate, steps, 0
        self._means: dict[str, Float64Array] = {}
        self._squares: dict[str, Float64Array] = {}

    def start(self) -> None:
        """Begin the next step."""
        self._done += 1

    def step(self, name: str, slope: Float32Array) -> Float32Array:
        """How a parameter is to move now.

        Args:
            name: the parameter's.
            slope: of the loss.
        """
        wide = slope.astype(np.float64)
        mean = self._means[name] = _MEAN * self._means.get(name, 0.0) + (1 - _MEAN) * wide
        square = self._squares[name] = _SQUARE * self._squares.get(name, 0.0) + (1 - _SQUARE) * wide * wide
        mean, square = mean / (1 - _MEAN**self._done), square / (1 - _SQUARE**self._done)
        return np.asarray(-self._now() * mean / (np.sqrt(square) + _SMALLEST), np.float32)

    def _now(self) -> float:
        warm = max(1, round(_WARM * self._steps))
        rest = max(0, self._done - warm) / max(1, self._steps - warm)
        return self._rate * min(1.0, self._done / warm) * (1 + math.cos(math.pi * min(1.0, rest))) / 2
