"""The dual grid nearest to the scales and zero points that were fitted to every block."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxfq.arrays import Array, Float32Array, Uint8Array
from onnxfq.dual_grain import BITS, MOST, REACH, TOP, DualGrid
from onnxfq.quantized import SMALLEST_SCALE, QuantizedWeight
from onnxfq.solvers.blocks import encode
from onnxfq.system.compiled import compiled
from onnxfq.system.threads import spread

_CANDIDATES = 16  # tried at once: a multiple of what vector units hold
_COARSE = np.geomspace(0.4, 1.1, _CANDIDATES).astype(np.float32)  # of the row scale that just holds all blocks
_FINE = np.geomspace(0.955, 1.045, _CANDIDATES).astype(np.float32)  # of the best of these
_ROUNDS = 2  # of searches for blocks, each with a better scale of the row
_STEPS = 6  # of one search
_LEAST = np.float32(SMALLEST_SCALE["float32"])
_LARGEST = np.float32(np.finfo(np.float32).max / (REACH + 3))  # what is within reach is finite


def fitted_dual_grid(
    weight: Float32Array,
    importance: Float32Array,
    scale: Float32Array,
    zero_point: Array,
    block_size: int,
) -> DualGrid:
    """The dual grid with the least weighted squared error of nearest codes that a search finds.

    Every row tries scales; blocks take the multiplier and offset nearest to their own scale and zero point, and in the
    end whatever is best about these.

    Args:
        weight: [N, K], contiguous.
        importance: [K], how much a squared error in each column counts.
        scale: [N, blocks], of either sign.
        zero_point: [N, blocks].
        block_size: columns of a block.
    """
    step = np.abs(scale).astype(np.float64)
    zero = np.where(scale < 0, TOP - zero_point.astype(np.float64), zero_point)
    reach = (step * np.maximum(zero, TOP - zero)).max(axis=1) / REACH
    unit = np.clip(reach, _LEAST, _LARGEST).astype(np.float32)
    step = (step / unit[:, None]).astype(np.float32)
    centre = step * (TOP / 2 - zero).astype(np.float32)
    grid = DualGrid(np.empty_like(unit), np.empty_like(step), np.empty_like(step))
    spread(
        _fit, weight.shape[0], weight, importance, unit, step, centre, block_size, _COARSE, _FINE,
        grid.row_scale, grid.multiplier, grid.offset,
    )  # fmt: skip
    return grid


def dual_grained(weight: Float32Array, q: QuantizedWeight, importance: Float32Array) -> QuantizedWeight:
    """A weight quantized to blocks with scales of their own, put on the dual grid nearest to these."""
    grid = fitted_dual_grid(weight, importance, q.scale, q.zero_point, q.block_size)
    codes = dual_codes(weight, grid, q.block_size)
    return replace(grid.quantized(codes, q.block_size), remarks=q.remarks)


def dual_codes(weight: Float32Array, grid: DualGrid, block_size: int) -> Uint8Array:
    """The nearest codes on a grid."""
    with np.errstate(over="ignore"):  # what is out of reach takes the outermost code, however far it is
        shifted = weight - grid.shift(block_size, weight.shape[1])
    return encode(shifted, grid.scale, np.zeros(grid.offset.shape, np.uint8), BITS, block_size)


@compiled()
def _add(
    weights: Float32Array,
    importance: Float32Array,
    steps: Float32Array,
    inverses: Float32Array,
    shifts: Float32Array,
    errors: Float32Array,
) -> None:
    """For every grid, add up the errors of nearest codes; the inner loop runs over grids, as in `grid`."""
    top = np.float32(TOP)
    for k in range(weights.size):
        x = weights[k]
        h = importance[k]
        for c in range(steps.size):
            above = x - shifts[c]
            t = above * inverses[c]
            t = np.float32(0) if t < np.float32(0) else t
            t = top if t > top else t
            t = np.rint(t)
            e = above - t * steps[c]
            errors[c] += h * e * e


@compiled()
def _near(step: np.float32, centre: np.float32, row_scale: np.float32) -> tuple[np.float32, np.float32]:
    """The multiplier and offset nearest to a block's step and the middle of its grid."""
    multiplier = min(max(np.rint(step / row_scale), np.float32(1)), np.float32(MOST))
    return multiplier, _within(np.rint(centre / row_scale - np.float32(TOP / 2) * multiplier), multiplier)


@compiled()
def _within(offset: np.float32, multiplier: np.float32) -> np.float32:
    """The nearest offset with which all codes are int8."""
    reach = np.float32(REACH)
    return min(max(offset, -reach), reach - np.float32(TOP) * multiplier)


@compiled()
def _fit(
    begin: int,
    end: int,
    weight: Float32Array,
    importance: Float32Array,
    unit: Float32Array,
    step: Float32Array,
    centre: Float32Array,
    block_size: int,
    coarse: Float32Array,
    fine: Float32Array,
    row_scale: Float32Array,
    multiplier: Float32Array,
    offset: Float32Array,
) -> None:
    """All rows; weights, steps and centres are measured in the row's unit."""
    k = weight.shape[1]
    scaled = np.empty(k, np.float32)
    for row in range(begin, end):
        for i in range(k):
            scaled[i] = weight[row, i] / unit[row]
        found = np.float32(1)
        for factors in (coarse, fine):
            found = _best_row_scale(scaled, importance, step[row], centre[row], block_size, found * factors)
        for block in range(step.shape[1]):
            multiplier[row, block], offset[row, block] = _near(step[row, block], centre[row, block], found)
        for _ in range(_ROUNDS):
            _fit_blocks(scaled, importance, found, block_size, multiplier[row], offset[row])
            found = _refit(scaled, importance, found, block_size, multiplier[row], offset[row])
        row_scale[row] = min(max(found * unit[row], _LEAST), _LARGEST)


@compiled()
def _best_row_scale(
    weights: Float32Array,
    importance: Float32Array,
    step: Float32Array,
    centre: Float32Array,
    block_size: int,
    candidates: Float32Array,
) -> np.float32:
    """The scale under which all blocks of a row err least."""
    steps = np.empty(candidates.size, np.float32)
    inverses = np.empty(candidates.size, np.float32)
    shifts = np.empty(candidates.size, np.float32)
    errors = np.zeros(candidates.size, np.float32)
    for block in range(step.size):
        first = block * block_size
        last = min(weights.size, first + block_size)
        for c in range(candidates.size):
            m, b = _near(step[block], centre[block], candidates[c])
            steps[c], shifts[c] = m * candidates[c], b * candidates[c]
            inverses[c] = np.float32(1) / steps[c]
        _add(weights[first:last], importance[first:last], steps, inverses, shifts, errors)
    best: np.float32 = candidates[np.argmin(errors)]
    return best


@compiled()
def _fit_blocks(
    weights: Float32Array,
    importance: Float32Array,
    row_scale: np.float32,
    block_size: int,
    multiplier: Float32Array,
    offset: Float32Array,
) -> None:
    """For every block of a row, go to the best multiplier and offset about those that it has."""
    steps = np.empty(_CANDIDATES, np.float32)
    inverses = np.empty(_CANDIDATES, np.float32)
    shifts = np.empty(_CANDIDATES, np.float32)
    errors = np.empty(_CANDIDATES, np.float32)
    ms = np.empty(_CANDIDATES, np.float32)
    bs = np.empty(_CANDIDATES, np.float32)
    for block in range(multiplier.size):
        first = block * block_size
        last = min(weights.size, first + block_size)
        for _ in range(_STEPS):
            m, b = multiplier[block], offset[block]
            for c in range(_CANDIDATES):  # the first is the one there is
                move = np.float32(0) if c == 0 else np.float32((c - 1) % 5 - 2)
                change = np.float32(0) if c == 0 else np.float32((c - 1) // 5 - 1)
                ms[c] = min(max(m + change, np.float32(1)), np.float32(MOST))
                bs[c] = _within(np.rint(b + move - np.float32(TOP / 2) * (ms[c] - m)), ms[c])
                steps[c], shifts[c] = ms[c] * row_scale, bs[c] * row_scale
                inverses[c] = np.float32(1) / steps[c]
            errors[:] = 0
            _add(weights[first:last], importance[first:last], steps, inverses, shifts, errors)
            best = np.argmin(errors)
            multiplier[block], offset[block] = ms[best], bs[best]
            if best == 0:
                break


@compiled()
def _refit(
    weights: Float32Array,
    importance: Float32Array,
    row_scale: np.float32,
    block_size: int,
    multiplier: Float32Array,
    offset: Float32Array,
) -> np.float32:
    """The best scale of a row for the codes that are nearest now; the same where none is better."""
    pull = squares = 0.0
    for block in range(multiplier.size):
        m, b = multiplier[block], offset[block]
        for i in range(block * block_size, min(weights.size, (block + 1) * block_size)):
            code = min(max(np.rint((weights[i] / row_scale - b) / m), np.float32(0)), np.float32(TOP))
            value = np.float64(m * code + b)
            pull += importance[i] * value * weights[i]
            squares += importance[i] * value * value
    return np.float32(pull / squares) if pull > 0.0 and squares > 0.0 else row_scale
