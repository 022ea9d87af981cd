"""A chunk of a draft's rows turned, columns first: what is done to one column is done to all rows side by side.

So loops over rows are the inner ones: they need no reordered sums to fill vector units, and what rows share, such as
how the errors of two columns count together, is loaded once for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Float32Array
from onnxfq.dual_grain import DualGrid
from onnxfq.solvers.draft import Draft
from onnxfq.system.compiled import compiled

FUSED = frozenset({"contract"})  # products are added up without being rounded, as in matrix products
_CHANGED = ("steps", "scale", "lowest", "shift", "row_scale", "multiplier", "offset")
_TILE = 16


@dataclass(frozen=True, slots=True, eq=False)
class Lanes:
    """The arrays of some rows of a draft, R of them; changed in place.

    Every weight is `scale · step + shift`, its step a whole number from `lowest` to `lowest + top`.

    Attributes:
        target: [K, R], what the weights ought to be.
        steps: [K, R].
        scale: [blocks, R].
        lowest: [blocks, R]; less the zero point.
        shift: [blocks, R]; 0 but for dual grids.
        row_scale: [R], of dual grids.
        multiplier: [blocks, R], of dual grids.
        offset: [blocks, R], of dual grids.
        draft: where they come from.
    """

    target: Float32Array
    steps: Float32Array
    scale: Float32Array
    lowest: Float32Array
    shift: Float32Array
    row_scale: Float32Array
    multiplier: Float32Array
    offset: Float32Array
    draft: Draft

    @classmethod
    def of(cls, draft: Draft, *, coded: bool = True) -> Lanes:
        """From rows of a draft; steps are anything where there are no codes so far."""
        target, scale = turned(draft.target), turned(draft.scale)
        codes = turned(draft.codes) if coded else np.zeros_like(target)
        if draft.row_scale is None:
            lowest, none = -turned(draft.zero_point), np.zeros((0, scale.shape[1]), np.float32)
            lanes = cls(target, codes, scale, lowest, np.zeros_like(scale), none, none, none, draft)
            _add_to_blocks(lanes.steps, lowest, draft.block_size)
            return lanes
        grid = DualGrid.of(draft.scale, draft.zero_point, draft.row_scale)
        multiplier, offset = turned(grid.multiplier), turned(grid.offset)
        shift, lowest = draft.row_scale * offset, np.zeros_like(scale)
        return cls(target, codes, scale, lowest, shift, draft.row_scale.copy(), multiplier, offset, draft)

    def copy(self) -> Lanes:
        """Steps and grids of its own, for the same target."""
        return replace(self, **{name: getattr(self, name).copy() for name in _CHANGED})

    def take(self, rows: npt.NDArray[np.bool_], other: Lanes) -> None:
        """Take over some rows, told by a mask [R]."""
        for name in _CHANGED:
            array = getattr(self, name)
            if array.size:
                take_lanes(array.reshape(-1, rows.size), getattr(other, name).reshape(-1, rows.size), rows)

    def store(self) -> None:
        """Write codes and grids where they come from."""
        draft = self.draft
        _store(self.steps, self.lowest, draft.block_size, draft.codes)
        if draft.row_scale is None:
            draft.scale[:], draft.zero_point[:] = self.scale.T, -self.lowest.T
            return
        grid = DualGrid(self.row_scale, self.multiplier.T, self.offset.T)
        draft.row_scale[:], draft.scale[:], draft.zero_point[:] = grid.row_scale, grid.scale, grid.zero_point

    def error(self) -> Float32Array:
        """The weights so far less what they ought to be, [K, R]."""
        error = np.empty_like(self.target)
        _subtract(self.steps, self.scale, self.shift, self.target, self.draft.block_size, error)
        return error


def turned(array: npt.NDArray[Any]) -> Float32Array:
    """[N, K] of any type → [K, N] float32, contiguous."""
    out = np.empty(array.shape[::-1], np.float32)
    _turn(np.ascontiguousarray(array), out)
    return out


@compiled()
def take_lanes(array: Float32Array, other: Float32Array, wanted: npt.NDArray[np.bool_]) -> None:
    """Take over some lanes, told by a mask [R], of an array [..., R]."""
    for column in range(array.shape[0]):
        mine, theirs = array[column], other[column]
        for lane in range(wanted.size):
            mine[lane] = theirs[lane] if wanted[lane] else mine[lane]


@compiled()
def _turn(array: npt.NDArray[Any], out: Float32Array) -> None:
    k, n = out.shape
    for top in range(0, n, _TILE):
        for left in range(0, k, _TILE):
            for row in range(top, min(n, top + _TILE)):
                for column in range(left, min(k, left + _TILE)):
                    out[column, row] = np.float32(array[row, column])


@compiled()
def _store(steps: Float32Array, lowest: Float32Array, block_size: int, codes: npt.NDArray[np.uint8]) -> None:
    k, n = steps.shape
    places = np.empty((_TILE, n), np.uint8)
    for left in range(0, k, _TILE):
        width = min(k, left + _TILE) - left
        for j in range(width):
            line, place, low = steps[left + j], places[j], lowest[(left + j) // block_size]
            for row in range(n):
                place[row] = np.uint8(np.int32(line[row] - low[row]))
        for row in range(n):
            for j in range(width):
                codes[row, left + j] = places[j, row]


@compiled()
def _add_to_blocks(values: Float32Array, addends: Float32Array, block_size: int) -> None:
    for column in range(values.shape[0]):
        line, addend = values[column], addends[column // block_size]
        for lane in range(line.size):
            line[lane] += addend[lane]


@compiled()
def _subtract(
    steps: Float32Array,
    scale: Float32Array,
    shift: Float32Array,
    target: Float32Array,
    block_size: int,
    error: Float32Array,
) -> None:
    for column in range(steps.shape[0]):
        block = column // block_size
        t, s, b, w, e = steps[column], scale[block], shift[block], target[column], error[column]
        for lane in range(t.size):
            e[lane] = s[lane] * t[lane] + b[lane] - w[lane]


@compiled(fastmath=FUSED)
def add_product(
    matrix: Float32Array, top: int, bottom: int, left: int, right: int, moves: Float32Array, sums: Float32Array
) -> None:
    """Add `matrix[j, left:right] @ moves[left:right]` to `sums[j]`, for `j` from `top` to `bottom`.

    A small product, of what the cache holds: two rows and four columns at once, so that what is loaded serves several
    times.
    """
    for j in range(top, bottom - 1, 2):
        sum0, sum1 = sums[j], sums[j + 1]
        for i in range(left, right - 3, 4):
            a0, a1, a2, a3 = matrix[j, i], matrix[j, i + 1], matrix[j, i + 2], matrix[j, i + 3]
            b0, b1, b2, b3 = matrix[j + 1, i], matrix[j + 1, i + 1], matrix[j + 1, i + 2], matrix[j + 1, i + 3]
            x0, x1, x2, x3 = moves[i], moves[i + 1], moves[i + 2], moves[i + 3]
            for lane in range(sum0.size):
                y0, y1, y2, y3 = x0[lane], x1[lane], x2[lane], x3[lane]
                sum0[lane] += a0 * y0 + a1 * y1 + a2 * y2 + a3 * y3
                sum1[lane] += b0 * y0 + b1 * y1 + b2 * y2 + b3 * y3
        for i in range(left + (right - left) // 4 * 4, right):
            a0, b0, x0 = matrix[j, i], matrix[j + 1, i], moves[i]
            for lane in range(sum0.size):
                sum0[lane] += a0 * x0[lane]
                sum1[lane] += b0 * x0[lane]
    if (bottom - top) % 2:
        sum0 = sums[bottom - 1]
        for i in range(left, right):
            a0, x0 = matrix[bottom - 1, i], moves[i]
            for lane in range(sum0.size):
                sum0[lane] += a0 * x0[lane]
