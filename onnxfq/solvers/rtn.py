"""Round to nearest: the range of every block becomes its grid, and every weight takes the nearest point."""

from __future__ import annotations

import numpy as np
from numba import prange

from onnxfq.arrays import Float32Array, Float64Array, Uint8Array
from onnxfq.quantized import SMALLEST_SCALE, QuantizedWeight, round_scale
from onnxfq.scheme import ScaleType, Scheme
from onnxfq.solvers.blocks import block_ranges, nearest
from onnxfq.statistics import Need, Statistics
from onnxfq.system.compiled import compiled

_LARGEST = float(np.finfo(np.float32).max)


class Rtn:
    """Round to nearest on the min/max grid. Needs no data; no weight is clipped.

    Asymmetric grids always contain 0 exactly, so that blocks of one sign keep their far end. Symmetric ones take the
    sign of scale that lets the extra negative code serve the larger side.
    """

    name = "rtn"
    needs: frozenset[Need] = frozenset()
    weighs_inputs = False

    def solve(
        self, weight: Float32Array, scheme: Scheme, statistics: Statistics | None, *, scale_type: ScaleType
    ) -> QuantizedWeight:
        """Quantize one weight [N, K]; see `Solver.solve`. `|weight − dequantized| ≤ |scale| / 2` everywhere."""
        weight = np.ascontiguousarray(weight, np.float32)
        scale, zero_point = range_grid(weight, scheme, scale_type)
        return nearest(weight, scale, zero_point, scheme, scale_type)


def range_grid(weight: Float32Array, scheme: Scheme, scale_type: ScaleType) -> tuple[Float32Array, Uint8Array]:
    """The grid that spans every block's range.

    Returns:
        scale and zero_point, [N, ceil(K / block_size)], the scale representable in `scale_type`. Where the type is too
        coarse for the exact scale, the next larger one.
    """
    lowest, highest = block_ranges(weight, scheme.columns_per_block(weight.shape[1]))
    if scale_type == "float32" and not scheme.symmetric and scheme.block_size != "tensor":
        return _grid(lowest, highest, scheme.levels - 1)
    low, high = lowest.astype(np.float64), highest.astype(np.float64)
    if scheme.block_size == "tensor":
        low, high = np.full_like(low, low.min()), np.full_like(high, high.max())
    exact = _symmetric_scale(low, high, scheme) if scheme.symmetric else (high - low) / (scheme.levels - 1)
    scale = round_scale(exact, scale_type, cover=True)
    if scheme.symmetric:
        return scale, np.full(scale.shape, scheme.default_zero_point, np.uint8)
    zero_point = np.clip(np.rint(-low / scale), 0, scheme.levels - 1)
    return scale, zero_point.astype(np.uint8)


def _grid(lowest: Float32Array, highest: Float32Array, top: int) -> tuple[Float32Array, Uint8Array]:
    """The usual case in one pass: the same numbers as by the way of `round_scale`."""
    scale, zero_point = np.empty(lowest.shape, np.float32), np.empty(lowest.shape, np.uint8)
    _fill_grid(lowest, highest, top, np.float32(SMALLEST_SCALE["float32"]), scale, zero_point)
    return scale, zero_point


@compiled()
def spanning_grid(low: np.float64, high: np.float64, top: int, smallest: np.float32) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of the grid with codes 0 to `top` that spans [low, high]; for compiled loops."""
    exact = min((high - low) / top, _LARGEST)
    step = np.float32(exact)
    if np.float64(step) < exact * (1 - 2.0**-20):  # among subnormal numbers
        step = smallest
    step = max(step, smallest)
    return step, np.uint8(min(max(np.rint(-low / step), 0.0), np.float64(top)))


@compiled(parallel=True)
def _fill_grid(
    lowest: Float32Array,
    highest: Float32Array,
    top: int,
    smallest: np.float32,
    scale: Float32Array,
    zero_point: Uint8Array,
) -> None:
    for row in prange(lowest.shape[0]):
        for block in range(lowest.shape[1]):
            low, high = np.float64(lowest[row, block]), np.float64(highest[row, block])
            scale[row, block], zero_point[row, block] = spanning_grid(low, high, top, smallest)


def _symmetric_scale(low: Float64Array, high: Float64Array, scheme: Scheme) -> Float64Array:
    """The smaller of the two scales, of either sign, whose grids hold [low, high]."""
    wide, narrow = scheme.default_zero_point, scheme.default_zero_point - 1
    upright = np.maximum(high / narrow, -low / wide)
    mirrored = np.maximum(high / wide, -low / narrow)
    return np.where(upright <= mirrored, upright, -mirrored)
