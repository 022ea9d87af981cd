"""How much an output changes from sample to sample: where it hardly does, no error of it says much."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from onnxfq.arrays import Array, Float64Array

ALIKE = 0.01  # of an output's size: where less changes, quantizing changes as much as the inputs do
_LOOKED_AT = 1 << 16  # elements of an output at most, at even distances: no output is kept


@dataclass
class Likeness:
    """What has been seen of one output over samples.

    Of numbers, Σ(y−mean y)² / Σy² over samples, element by element; of what is no floating-point number, how many
    elements differ from the first sample's, or, where there is but one, from its first element.
    """

    first: Array | None = None
    shape: tuple[int, ...] = ()
    samples: int = 0
    mean: Float64Array = field(default_factory=lambda: np.zeros(0))
    squares: Float64Array = field(default_factory=lambda: np.zeros(0))
    size: float = 0.0
    different: int = 0
    of_shapes: bool = False

    def add(self, output: Array) -> None:
        """Add what one sample gave."""
        if not output.size or self.of_shapes:
            return
        if self.first is not None and output.shape != self.shape:
            self.of_shapes = True
            return
        values = output.reshape(-1)[:: max(1, -(-output.size // _LOOKED_AT))]
        if self.first is None:
            self.first, self.shape = values.copy(), output.shape
        self.samples += 1
        if output.dtype.kind == "f" or output.dtype.name == "bfloat16":
            self._add_numbers(values.astype(np.float64))
        else:
            self.different += int(np.sum(values != (self.first if self.samples > 1 else values[0])))

    @property
    def variation(self) -> float | None:
        """How much changes, as a part of all there is; None where samples cannot be laid side by side."""
        if self.of_shapes or self.first is None:
            return None
        if self.mean.size:
            return float(self.squares.sum() / self.size) if self.samples > 1 and self.size > 0 else None
        return self.different / (self.first.size * max(1, self.samples - 1))

    def _add_numbers(self, values: Float64Array) -> None:
        """Source: Welford, "Note on a method for calculating corrected sums of squares and products" (1962)."""
        values = np.where(np.isfinite(values), values, 0.0)
        if self.samples == 1:
            self.mean, self.squares = np.zeros(values.size), np.zeros(values.size)
        before = values - self.mean
        with np.errstate(over="ignore", invalid="ignore"):
            self.mean += before / self.samples
            self.squares += before * (values - self.mean)
            self.size += float((values**2).sum())
