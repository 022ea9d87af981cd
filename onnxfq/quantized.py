"""A quantized weight in canonical space, and the affine grid it lies on."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Array, Float32Array, Uint8Array
from onnxfq.scheme import ScaleType
from onnxfq.system.compiled import compiled
from onnxfq.system.threads import spread

STORED_TYPES: dict[ScaleType, np.dtype[np.generic]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
# The smallest positive scale that a storage type holds and that kernels do not flush to zero.
SMALLEST_SCALE: dict[ScaleType, float] = {"float32": 2.0**-126, "float16": 2.0**-24, "bfloat16": 2.0**-126}


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedWeight:
    """Integer codes with the grid they stand on: `weight[n, k] ≈ scale[n, b] · (codes[n, k] − zero_point[n, b])`.

    `b = k // block_size`. What a solver returns and what packing stores; nobody rounds it again.

    Attributes:
        codes: [N, K] uint8, one code a byte, each below `2**bits`.
        scale: [N, ceil(K / block_size)] float32, every value exactly representable in `scale_type`.
        zero_point: [N, ceil(K / block_size)] uint8, each below `2**bits`; with a `row_scale` float32, and any number.
        bits: 2, 4 or 8.
        block_size: columns sharing a scale; K itself where the whole row shares one.
        scale_type: the type in which scales are stored.
        symmetric: every zero point is `2**(bits-1)`, so that it need not be stored.
        remarks: what the solver had to do differently, for the report, such as "damping raised to 0.5".
        row_scale: [N] float32 of weights whose values in units of their row's scale are int8 (`onnxfq.dual_grain`);
            None of others.
    """

    codes: Uint8Array
    scale: Float32Array
    zero_point: Array
    bits: int
    block_size: int
    scale_type: ScaleType = "float32"
    symmetric: bool = False
    remarks: tuple[str, ...] = ()
    row_scale: Float32Array | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K): outputs, inputs."""
        return self.codes.shape[0], self.codes.shape[1]

    def dequantize(self) -> Float32Array:
        """The weights the codes stand for, [N, K] float32."""
        k = self.shape[1]
        scale = np.repeat(self.scale, self.block_size, axis=1)[:, :k]
        zero_point = np.repeat(self.zero_point, self.block_size, axis=1)[:, :k]
        return scale * (self.codes.astype(np.float32) - zero_point.astype(np.float32))


def round_scale(scale: npt.NDArray[np.floating], scale_type: ScaleType, *, cover: bool = False) -> Float32Array:
    """Round scales to the type they will be stored in, as float32; magnitudes stay at least the smallest usable one.

    Solvers choose codes *after* this, on the grid that will be stored.

    Args:
        scale: any shape, either sign.
        scale_type: the stored type.
        cover: take the next larger magnitude instead of the nearest where the nearest falls short of `scale` by more
            than a millionth, so that a grid still covers the range it was made for.
    """
    dtype = STORED_TYPES[scale_type]
    largest = float(ml_dtypes.finfo(dtype).max)
    exact = np.clip(np.asarray(scale, np.float64), -largest, largest)
    stored = exact.astype(dtype)
    if cover:
        short = np.abs(stored.astype(np.float64)) < np.abs(exact) * (1 - 2.0**-20)
        stored = np.where(short, np.nextafter(stored, np.copysign(largest, exact).astype(dtype)), stored)
    rounded = stored.astype(np.float32)
    smallest = np.float32(SMALLEST_SCALE[scale_type])
    return np.where(np.abs(rounded) < smallest, np.copysign(smallest, rounded), rounded)


@dataclass(frozen=True, slots=True)
class WeightRange:
    """What some weights take up.

    Attributes:
        sum_squares: Σ w² in float64; not finite exactly when some weight is NaN or infinite.
        min: smallest weight; means something where that is finite.
        max: largest weight; likewise.
    """

    sum_squares: float
    min: float
    max: float


def weight_range(weight: Float32Array) -> WeightRange:
    """What a weight of some elements takes up."""
    sums = np.empty(weight.shape[0], np.float64)
    spread(_row_energies, weight.shape[0], weight, sums)
    return WeightRange(float(sums.sum()), float(weight.min()), float(weight.max()))


def squared_error(weight: Float32Array, q: QuantizedWeight) -> float:
    """Σ (w − dequantized)² in float64, without building the dequantized weight; the same for any thread count."""
    rows = np.empty(weight.shape[0], np.float64)
    spread(_row_errors, weight.shape[0], weight, q.codes, q.scale, q.zero_point, q.block_size, rows)
    return float(rows.sum())


_RUN = 256  # how many float32 squares are added up before the sum goes into a float64

# Sums for reports, not for codes: they may be added in the order that suits the processor's vectors.
_REORDERED = frozenset({"reassoc", "nsz"})


@compiled(fastmath=_REORDERED)
def _row_energies(begin: int, end: int, weight: Float32Array, rows: npt.NDArray[np.float64]) -> None:
    for row in range(begin, end):
        values = weight[row]
        total = 0.0
        for i in range(values.size):
            value = np.float64(values[i])
            total += value * value
        rows[row] = total


@compiled(fastmath=_REORDERED)
def _row_errors(
    begin: int,
    end: int,
    weight: Float32Array,
    codes: Uint8Array,
    scale: Float32Array,
    zero_point: Array,
    block_size: int,
    rows: npt.NDArray[np.float64],
) -> None:
    k = weight.shape[1]
    for row in range(begin, end):
        total = 0.0
        for block in range(scale.shape[1]):
            step = scale[row, block]
            zero = np.float32(zero_point[row, block])
            last = min(k, (block + 1) * block_size)
            for first in range(block * block_size, last, _RUN):
                w, c = weight[row, first : min(last, first + _RUN)], codes[row, first : min(last, first + _RUN)]
                # Squares in steps of the grid: they neither overflow nor vanish in float32.
                squares = np.float32(0)
                for i in range(w.size):
                    error = w[i] / step - (np.float32(c[i]) - zero)
                    squares += error * error
                total += np.float64(squares) * np.float64(step) ** 2
        rows[row] = total
