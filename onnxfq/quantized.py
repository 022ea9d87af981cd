"""A quantised weight in canonical space, and the affine grid it lies on."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt
from numba import prange

from onnxfq.arrays import Float32Array, Uint8Array, Uint16Array, Uint32Array
from onnxfq.scheme import ScaleType
from onnxfq.system.compiled import compiled

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
        zero_point: [N, ceil(K / block_size)] uint8, each below `2**bits`.
        bits: 2, 4 or 8.
        block_size: columns sharing a scale; K itself where the whole row shares one.
        scale_type: the type in which scales are stored.
        symmetric: every zero point is `2**(bits-1)`, so that it need not be stored.
        remarks: what the solver had to do differently, for the report, such as "damping raised to 0.5".
    """

    codes: Uint8Array
    scale: Float32Array
    zero_point: Uint8Array
    bits: int
    block_size: int
    scale_type: ScaleType = "float32"
    symmetric: bool = False
    remarks: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K): outputs, inputs."""
        return self.codes.shape[0], self.codes.shape[1]

    def dequantise(self) -> Float32Array:
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
class Extent:
    """What some weights take up.

    Attributes:
        energy: Σ w² in float64; not finite exactly when some weight is NaN or infinite.
        least: smallest weight; means something where the energy is finite.
        largest: largest weight; likewise.
    """

    energy: float
    least: float
    largest: float


def extent(weight: Float32Array) -> Extent:
    """What a weight of some elements takes up."""
    sums = np.empty(weight.shape[0], np.float64)
    _row_energies(weight, sums)
    return Extent(float(sums.sum()), float(weight.min()), float(weight.max()))


def squared_error(weight: Float32Array, q: QuantizedWeight) -> float:
    """Σ (w − dequantised)² in float64, without building the dequantised weight; the same for any thread count."""
    rows = np.empty(weight.shape[0], np.float64)
    _row_errors(weight, q.codes, q.scale, q.zero_point, q.block_size, rows)
    return float(rows.sum())


_RUN = 256  # how many float32 squares are added up before the sum goes into a float64
_TILE = 32  # rows and columns of a square that both sides of a transposition keep in the cache

# Sums for reports, not for codes: they may be added in the order that suits the processor's vectors.
_REORDERED = frozenset({"reassoc", "nsz"})


@compiled(parallel=True, fastmath=_REORDERED)
def _row_energies(weight: Float32Array, rows: npt.NDArray[np.float64]) -> None:
    for row in prange(weight.shape[0]):
        values = weight[row]
        total = 0.0
        for i in range(values.size):
            value = np.float64(values[i])
            total += value * value
        rows[row] = total


@compiled(parallel=True, fastmath=_REORDERED)
def _row_errors(
    weight: Float32Array,
    codes: Uint8Array,
    scale: Float32Array,
    zero_point: Uint8Array,
    block_size: int,
    rows: npt.NDArray[np.float64],
) -> None:
    n, k = weight.shape
    for row in prange(n):
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


def widened(stored: npt.NDArray[np.generic], columns: slice) -> Float32Array:
    """Some columns of an array [K, N] of half precision, C-contiguous, as float32 [K, columns]."""
    out = np.empty((stored.shape[0], columns.stop - columns.start), np.float32)
    _widen(stored.view(np.uint16), columns.start, stored.dtype == np.float16, out.view(np.uint32), out)
    return out


_HALF_SCALE = np.float32(2.0**112)  # the difference of the exponents' biases; exact, for subnormals too


@compiled()
def _half(value: np.uint16) -> np.uint32:
    """Half precision with exponent and mantissa moved to their places in float32, where it is 2**-112 times as much."""
    half = np.uint32(value)
    special = np.uint32(0x7F800000) if half & np.uint32(0x7C00) == np.uint32(0x7C00) else np.uint32(0)
    bits: np.uint32 = (half & np.uint32(0x8000)) << np.uint32(16)
    return bits | special | ((half & np.uint32(0x7FFF)) << np.uint32(13))


@compiled(parallel=True)
def _widen(stored: Uint16Array, start: int, is_half: bool, bits: Uint32Array, out: Float32Array) -> None:
    for row in prange(out.shape[0]):
        values, line, numbers = stored[row, start : start + out.shape[1]], bits[row], out[row]
        for i in range(line.size):
            line[i] = _half(values[i]) if is_half else np.uint32(values[i]) << np.uint32(16)
        if is_half:
            for i in range(line.size):
                numbers[i] *= _HALF_SCALE


def turned(part: npt.NDArray[np.generic]) -> Float32Array:
    """[K, rows] of any float type → [rows, K] float32, contiguous."""
    out = np.empty(part.shape[::-1], np.float32)
    if part.dtype == np.float32:
        _turn(np.asarray(part, np.float32), out)
    elif part.dtype == np.float16:
        _turn_half(part.view(np.uint16), out.view(np.uint32), out)
    elif part.dtype == ml_dtypes.bfloat16:
        _turn_bfloat(part.view(np.uint16), out.view(np.uint32))
    else:
        out[...] = part.T
    return out


@compiled(parallel=True)
def _turn(part: Float32Array, out: Float32Array) -> None:
    k, n = part.shape
    for strip in prange((k + _TILE - 1) // _TILE):  # what is read stands together; what is written is in the cache
        top = strip * _TILE
        for left in range(0, n, _TILE):
            for row in range(left, min(n, left + _TILE)):
                line = out[row, top : min(k, top + _TILE)]
                for i in range(line.size):
                    line[i] = part[top + i, row]


@compiled(parallel=True)
def _turn_half(part: Uint16Array, bits: Uint32Array, out: Float32Array) -> None:
    k, n = part.shape
    for strip in prange((k + _TILE - 1) // _TILE):
        top = strip * _TILE
        for left in range(0, n, _TILE):
            for row in range(left, min(n, left + _TILE)):
                line, values = bits[row, top : min(k, top + _TILE)], out[row, top : min(k, top + _TILE)]
                for i in range(line.size):
                    line[i] = _half(part[top + i, row])
                for i in range(line.size):
                    values[i] *= _HALF_SCALE


@compiled(parallel=True)
def _turn_bfloat(part: Uint16Array, bits: Uint32Array) -> None:
    """Bfloat16 is the upper half of a float32."""
    k, n = part.shape
    for strip in prange((k + _TILE - 1) // _TILE):
        top = strip * _TILE
        for left in range(0, n, _TILE):
            for row in range(left, min(n, left + _TILE)):
                line = bits[row, top : min(k, top + _TILE)]
                for i in range(line.size):
                    line[i] = np.uint32(part[top + i, row]) << np.uint32(16)
