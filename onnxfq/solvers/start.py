"""The grids to start from: a short search for every block's scale and zero point, for what is refitted later on."""

from __future__ import annotations

import numpy as np

from onnxfq.arrays import Float32Array
from onnxfq.quantized import round_scale
from onnxfq.solvers.grid import stages
from onnxfq.solvers.lanes import FUSED, Lanes
from onnxfq.system.compiled import compiled

_STAGES = 2  # of the full search: the third changes nothing that is left after refits


def fit_start(lanes: Lanes, importance: Float32Array) -> None:
    """Give every block a grid with little weighted squared error, near its min/max grid.

    Args:
        lanes: its grids are the min/max grids, and are changed; steps do not matter.
        importance: [K], how much a squared error in each column counts.
    """
    draft = lanes.draft
    factors, shifts = (found[:_STAGES] for found in stages(min(draft.block_size, len(importance)), draft.scheme))
    ratio = np.ones_like(lanes.scale)
    _search(lanes.target, importance, lanes.scale, factors, shifts, draft.top, draft.block_size, ratio, lanes.lowest)
    lanes.scale[:] = round_scale(lanes.scale.astype(np.float64) * ratio, draft.scale_type)


@compiled()
def _search(
    target: Float32Array,
    importance: Float32Array,
    scale: Float32Array,
    factors: Float32Array,
    shifts: Float32Array,
    top: np.float32,
    block_size: int,
    ratio: Float32Array,
    lowest: Float32Array,
) -> None:
    """All stages for every block; weights are measured in steps of the block's min/max grid."""
    k, count = target.shape
    scaled = np.empty((min(k, block_size), count), np.float32)
    inverse, low = np.empty(count, np.float32), np.empty(count, np.float32)
    mixed, squares, best = np.empty(count, np.float32), np.empty(count, np.float32), np.empty(count, np.float32)
    centre, middle = np.empty(count, np.float32), np.empty(count, np.float32)
    for block in range(scale.shape[0]):
        first, last = block * block_size, min(k, (block + 1) * block_size)
        for j in range(last - first):
            scaled[j] = target[first + j] / scale[block]
        best[:] = 0
        found, zero = ratio[block], lowest[block]
        for stage in range(factors.shape[0]):
            centre[:], middle[:] = found, zero
            for c in range(factors.shape[1]):
                for lane in range(count):
                    inverse[lane] = np.float32(1) / (centre[lane] * factors[stage, c])
                    low[lane] = min(max(middle[lane] - shifts[stage, c], -top), np.float32(0))
                mixed[:], squares[:] = 0, 0
                _add(scaled, importance[first:last], inverse, low, top, mixed, squares)
                for lane in range(count):
                    if squares[lane] > 0:
                        gain = mixed[lane] * mixed[lane] / squares[lane]
                        if gain > best[lane]:
                            best[lane], zero[lane] = gain, low[lane]
                            found[lane] = mixed[lane] / squares[lane]


@compiled(fastmath=FUSED)
def _add(
    weights: Float32Array,
    importance: Float32Array,
    inverse: Float32Array,
    low: Float32Array,
    top: np.float32,
    mixed: Float32Array,
    squares: Float32Array,
) -> None:
    """Add up h·t·x and h·t², with x a weight, t its nearest step on the grid, and h the importance of its column."""
    half = importance.size // 2
    for j in range(half):
        x0, x1, h0, h1 = weights[2 * j], weights[2 * j + 1], importance[2 * j], importance[2 * j + 1]
        for lane in range(low.size):
            least, most = low[lane], low[lane] + top
            t = np.rint(min(max(x0[lane] * inverse[lane], least), most))
            s = np.rint(min(max(x1[lane] * inverse[lane], least), most))
            ht, hs = h0 * t, h1 * s
            mixed[lane] += ht * x0[lane] + hs * x1[lane]
            squares[lane] += ht * t + hs * s
    if importance.size % 2:
        x0, h0 = weights[2 * half], importance[2 * half]
        for lane in range(low.size):
            t = np.rint(min(max(x0[lane] * inverse[lane], low[lane]), low[lane] + top))
            mixed[lane] += h0 * t * x0[lane]
            squares[lane] += h0 * t * t
