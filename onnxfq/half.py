"""Half precision to float32, and [K, N] to [N, K], at the speed of memory."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Float32Array, Uint16Array, Uint32Array
from onnxfq.system.compiled import compiled
from onnxfq.system.threads import spread

_TILE = 32  # rows and columns of a square that both sides of a transposition keep in the cache


def to_float32(stored: npt.NDArray[np.generic], columns: slice) -> Float32Array:
    """Some columns of an array [K, N] of half precision, C-contiguous, as float32 [K, columns]."""
    out = np.empty((stored.shape[0], columns.stop - columns.start), np.float32)
    spread(
        _widen,
        out.shape[0],
        stored.view(np.uint16),
        columns.start,
        stored.dtype == np.float16,
        out.view(np.uint32),
        out,
    )
    return out


_HALF_SCALE = np.float32(2.0**112)  # the difference of the exponents' biases; exact, for subnormals too


@compiled()
def _half(value: np.uint16) -> np.uint32:
    """Half precision with exponent and mantissa moved to their places in float32, where it is 2**-112 times as much."""
    half = np.uint32(value)
    special = np.uint32(0x7F800000) if half & np.uint32(0x7C00) == np.uint32(0x7C00) else np.uint32(0)
    bits: np.uint32 = (half & np.uint32(0x8000)) << np.uint32(16)
    return bits | special | ((half & np.uint32(0x7FFF)) << np.uint32(13))


@compiled()
def _widen(
    begin: int, end: int, stored: Uint16Array, start: int, is_half: bool, bits: Uint32Array, out: Float32Array
) -> None:
    for row in range(begin, end):
        values, line, numbers = stored[row, start : start + out.shape[1]], bits[row], out[row]
        for i in range(line.size):
            line[i] = _half(values[i]) if is_half else np.uint32(values[i]) << np.uint32(16)
        if is_half:
            for i in range(line.size):
                numbers[i] *= _HALF_SCALE


def transposed(part: npt.NDArray[np.generic]) -> Float32Array:
    """[K, rows] of any float type → [rows, K] float32, contiguous."""
    out, strips = np.empty(part.shape[::-1], np.float32), -(-part.shape[0] // _TILE)
    if part.dtype == np.float32:
        spread(_turn, strips, np.asarray(part, np.float32), out)
    elif part.dtype == np.float16:
        spread(_turn_half, strips, part.view(np.uint16), out.view(np.uint32), out)
    elif part.dtype == ml_dtypes.bfloat16:
        spread(_turn_bfloat, strips, part.view(np.uint16), out.view(np.uint32))
    else:
        out[...] = part.T
    return out


@compiled()
def _turn(begin: int, end: int, part: Float32Array, out: Float32Array) -> None:
    k, n = part.shape
    for strip in range(begin, end):  # what is read stands together; what is written is in the cache
        top = strip * _TILE
        for left in range(0, n, _TILE):
            for row in range(left, min(n, left + _TILE)):
                line = out[row, top : min(k, top + _TILE)]
                for i in range(line.size):
                    line[i] = part[top + i, row]


@compiled()
def _turn_half(begin: int, end: int, part: Uint16Array, bits: Uint32Array, out: Float32Array) -> None:
    k, n = part.shape
    for strip in range(begin, end):
        top = strip * _TILE
        for left in range(0, n, _TILE):
            for row in range(left, min(n, left + _TILE)):
                line, values = bits[row, top : min(k, top + _TILE)], out[row, top : min(k, top + _TILE)]
                for i in range(line.size):
                    line[i] = _half(part[top + i, row])
                for i in range(line.size):
                    values[i] *= _HALF_SCALE


@compiled()
def _turn_bfloat(begin: int, end: int, part: Uint16Array, bits: Uint32Array) -> None:
    """Bfloat16 is the upper half of a float32."""
    k, n = part.shape
    for strip in range(begin, end):
        top = strip * _TILE
        for left in range(0, n, _TILE):
            for row in range(left, min(n, left + _TILE)):
                line = bits[row, top : min(k, top + _TILE)]
                for i in range(line.size):
                    line[i] = np.uint32(part[top + i, row]) << np.uint32(16)
