"""The grid that spans the range of every block."""

from __future__ import annotations

import numpy as np

from onnxfq.arrays import Float32Array, Float64Array, Uint8Array
from onnxfq.quantized import SMALLEST_SCALE, round_scale
from onnxfq.scheme import ScaleType, Scheme
from onnxfq.solvers.blocks import block_ranges, spanning_grid
from onnxfq.system.compiled import compiled
from onnxfq.system.threads import spread


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
    spread(_fill_grid, lowest.shape[0], lowest, highest, top, np.float32(SMALLEST_SCALE["float32"]), scale, zero_point)
    return scale, zero_point


@compiled()
def _fill_grid(
    begin: int,
    end: int,
    lowest: Float32Array,
    highest: Float32Array,
    top: int,
    smallest: np.float32,
    scale: Float32Array,
    zero_point: Uint8Array,
) -> None:
    for row in range(begin, end):
        for block in range(lowest.shape[1]):
            low, high = np.float64(lowest[row, block]), np.float64(highest[row, block])
            scale[row, block], zero_point[row, block] = spanning_grid(low, high, top, smallest)


def _symmetric_scale(low: Float64Array, high: Float64Array, scheme: Scheme) -> Float64Array:
    """The smaller of the two scales, of either sign, whose grids hold [low, high]."""
    wide, narrow = scheme.default_zero_point, scheme.default_zero_point - 1
    upright = np.maximum(high / narrow, -low / wide)
    mirrored = np.maximum(high / wide, -low / narrow)
    return np.where(upright <= mirrored, upright, -mirrored)
