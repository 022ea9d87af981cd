"""Round to nearest of a weight that is stored [K, N], as exports store it: in one pass, and without turning it.

What lies together is read together: the blocks of many outputs are rounded side by side, and only their codes, a
quarter of the bytes, are turned.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Float32Array, Uint8Array
from onnxfq.quantized import SMALLEST_SCALE, QuantizedWeight, WeightRange
from onnxfq.scheme import Scheme
from onnxfq.solvers.blocks import limits_of, spanning_grid
from onnxfq.system.compiled import compiled
from onnxfq.system.threads import spread

_TOGETHER = 256  # outputs that are rounded side by side


def round_columns(stored: Float32Array, columns: slice, scheme: Scheme) -> tuple[QuantizedWeight, float, WeightRange]:
    """The same codes, scales and zero points as `Rtn.solve` gives for asymmetric blocks with scales in float32.

    Args:
        stored: [K, N], C-contiguous. Where something is not finite, Σ w² is not, and the rest means nothing.
        columns: the outputs wanted, N of the result.
        scheme: bits and granularity, which is not "tensor".

    Returns:
        The outputs quantized, Σ (w − ŵ)², and what `weight_range` says about the weights.
    """
    (k, _), n = stored.shape, columns.stop - columns.start
    block_size = scheme.columns_per_block(k)
    codes, scale = np.empty((n, k), np.uint8), np.empty((n, -(-k // block_size)), np.float32)
    zero_point, found = np.empty(scale.shape, np.uint8), np.empty((-(-n // _TOGETHER), 4))
    smallest = np.float32(SMALLEST_SCALE["float32"])
    spread(
        _round,
        found.shape[0],
        stored,
        columns.start,
        block_size,
        scheme.levels - 1,
        smallest,
        codes,
        scale,
        zero_point,
        found,
    )
    q = QuantizedWeight(codes, scale, zero_point, scheme.bits, block_size, "float32")
    energies, errors, least, largest = found.T
    return q, float(errors.sum()), WeightRange(float(energies.sum()), float(least.min()), float(largest.max()))


@compiled()
def _round(
    begin: int,
    end: int,
    stored: Float32Array,
    start: int,
    block_size: int,
    top: int,
    smallest: np.float32,
    codes: Uint8Array,
    scale: Float32Array,
    zero_point: Uint8Array,
    found: npt.NDArray[np.float64],
) -> None:
    n, k = codes.shape
    for strip in range(begin, end):
        left = strip * _TOGETHER
        width = min(n - left, _TOGETHER)
        low, high = np.empty(_TOGETHER, np.float32), np.empty(_TOGETHER, np.float32)
        step, zero = np.empty(_TOGETHER, np.float32), np.empty(_TOGETHER, np.float32)
        bottom, ceiling = np.empty(_TOGETHER, np.float32), np.empty(_TOGETHER, np.float32)
        squares, error = np.empty(_TOGETHER, np.float32), 0.0
        energies = np.zeros(_TOGETHER, np.float64)
        least, largest = np.inf, -np.inf
        places = np.empty((block_size, _TOGETHER), np.uint8)
        for block in range(scale.shape[1]):
            first, last = block * block_size, min(k, (block + 1) * block_size)
            values = stored[first, start + left : start + left + width]
            for j in range(width):
                low[j] = high[j] = values[j]
            for row in range(first, last):
                values = stored[row, start + left : start + left + width]
                for j in range(width):
                    low[j] = values[j] if values[j] < low[j] else low[j]
                    high[j] = values[j] if values[j] > high[j] else high[j]
                for j in range(width):
                    value = np.float64(values[j])
                    energies[j] += value * value
            least, largest = min(least, low[:width].min()), max(largest, high[:width].max())
            for j in range(width):
                lowest, highest = np.float64(min(low[j], np.float32(0))), np.float64(max(high[j], np.float32(0)))
                step[j], point = spanning_grid(lowest, highest, top, smallest)
                zero[j] = np.float32(point)
                bottom[j], ceiling[j] = limits_of(step[j], zero[j], np.float32(top))
                squares[j] = np.float32(0)
            for row in range(first, last):
                values, line = stored[row, start + left : start + left + width], places[row - first]
                for j in range(width):
                    steps = values[j] / step[j]
                    inside = bottom[j] if steps < bottom[j] else steps
                    inside = ceiling[j] if inside > ceiling[j] else inside
                    nearest = np.rint(inside)
                    squares[j] += (steps - nearest) * (steps - nearest)
                    line[j] = np.uint8(np.int32(nearest + zero[j]))
            for j in range(width):
                error += np.float64(squares[j]) * np.float64(step[j]) ** 2
                scale[left + j, block], zero_point[left + j, block] = step[j], np.uint8(zero[j])
                turned = codes[left + j, first:last]
                for i in range(turned.size):
                    turned[i] = places[i, j]
        found[strip, 0], found[strip, 1] = energies.sum(), error
        found[strip, 2], found[strip, 3] = least, largest
