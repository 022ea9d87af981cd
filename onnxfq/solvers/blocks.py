"""What every solver does to blocks of a row: their range, and the codes nearest to them on a given grid."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from onnxfq.quantized import Float32Array, Uint8Array

_LARGEST = float(np.finfo(np.float32).max)
_ROUND = np.float32(12582912.0)  # 1.5 * 2**23: adding and taking it away rounds a float32 to nearest, ties to even


def block_ranges(weight: Float32Array, block_size: int) -> tuple[Float32Array, Float32Array]:
    """Smallest and largest weight of every block, both widened to contain 0.

    Returns:
        Two arrays [N, ceil(K / block_size)]: what is not above 0, and what is not below.
    """
    n, k = weight.shape
    lowest = np.empty((n, -(-k // block_size)), np.float32)
    highest = np.empty_like(lowest)
    _ranges(weight, block_size, lowest, highest)
    return lowest, highest


def encode(weight: Float32Array, scale: Float32Array, zero_point: Uint8Array, bits: int, block_size: int) -> Uint8Array:
    """The nearest codes [N, K] on a grid; what lies outside takes the outermost finite point of it."""
    codes = np.empty(weight.shape, np.uint8)
    _encode(weight, scale, zero_point, np.float32((1 << bits) - 1), block_size, codes)
    return codes


@njit(parallel=True, cache=True)  # type: ignore[untyped-decorator]
def _ranges(weight: Float32Array, block_size: int, lowest: Float32Array, highest: Float32Array) -> None:
    n, k = weight.shape
    for row in prange(n):
        for block in range(lowest.shape[1]):
            low = np.float32(0)
            high = np.float32(0)
            for column in range(block * block_size, min(k, (block + 1) * block_size)):
                value = weight[row, column]
                low = value if value < low else low
                high = value if value > high else high
            lowest[row, block] = low
            highest[row, block] = high


@njit(parallel=True, cache=True)  # type: ignore[untyped-decorator]
def _encode(
    weight: Float32Array,
    scale: Float32Array,
    zero_point: Uint8Array,
    top: np.float32,
    block_size: int,
    codes: Uint8Array,
) -> None:
    n, k = weight.shape
    for row in prange(n):
        for block in range(scale.shape[1]):
            first = block * block_size
            last = min(k, first + block_size)
            step = scale[row, block]
            zero = np.float32(zero_point[row, block])
            reach = np.float32(np.floor(_LARGEST / abs(step)))
            low = max(-zero, -reach)
            high = min(top - zero, reach)
            for column in range(first, last):
                steps = weight[row, column] / step
                steps = low if steps < low else steps
                steps = high if steps > high else steps
                codes[row, column] = np.uint8((steps + _ROUND) - _ROUND + zero)
