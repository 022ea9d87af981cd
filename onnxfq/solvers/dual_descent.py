"""Coordinate descent on the codes of dual grids, and on multipliers, offsets and scales of rows between them.

As on other grids (`descent`), with what can be stored in the place of real numbers: the best multiplier and offset for
a block's codes are a minimum over integers, and only the scale of a whole row is free.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from onnxfq.arrays import Float32Array, Uint8Array
from onnxfq.dual_grain import MOST, REACH, TOP, DualGrid
from onnxfq.solvers.descent import batches, descend, move_block, sum_blocks, visit_codes
from onnxfq.solvers.draft import Draft
from onnxfq.solvers.refit import SMALLEST_GAIN
from onnxfq.system.compiled import compiled


def without_offsets(draft: Draft) -> Draft:
    """The same codes and scales for a target less the offsets of dual grids, which then begin at 0 as any others."""
    if draft.row_scale is None:
        return draft
    steps = np.repeat(draft.scale * draft.zero_point, draft.block_size, axis=1)[:, : draft.target.shape[1]]
    zeros = np.zeros(draft.scale.shape, np.uint8)
    return replace(draft, target=draft.target + steps, zero_point=zeros, row_scale=None)


def descend_dual(draft: Draft, hessian: Float32Array, column_batch: int) -> None:
    """Visit every column, and give each block the best integers for its codes and each row the best scale.

    Codes have the last word.

    Args:
        draft: its codes and grids are changed.
        hessian: [K, K], how errors count.
        column_batch: columns whose gradient comes from one matrix product; whole blocks.
    """
    assert draft.row_scale is not None
    k = draft.codes.shape[1]
    grid = DualGrid.of(draft.scale, draft.zero_point, draft.row_scale)
    error = draft.dequantized() - draft.target
    arrays = (draft.codes, grid.row_scale, grid.multiplier, grid.offset)
    for first, gradient, within, inverse in batches(error, hessian, column_batch):
        _visit_batch(gradient, within, inverse, error, *arrays, draft.block_size, first)
    values = np.repeat(grid.multiplier, draft.block_size, axis=1)[:, :k] * draft.codes
    values += np.repeat(grid.offset, draft.block_size, axis=1)[:, :k]
    _refit_rows(draft, hessian, values)
    final = DualGrid(draft.row_scale, grid.multiplier, grid.offset)
    draft.scale[:], draft.zero_point[:] = final.scale, final.zero_point
    descend(without_offsets(draft), hessian, column_batch, refit=False)


def _refit_rows(draft: Draft, hessian: Float32Array, values: Float32Array) -> None:
    """The scale of every row in closed form."""
    assert draft.row_scale is not None
    products = values @ hessian
    squares = np.einsum("nk,nk->n", values, products, dtype=np.float64)
    pull = np.einsum("nk,nk->n", draft.target, products, dtype=np.float64)
    better = (pull > 0) & (squares > 0)
    scale = np.divide(pull, squares, out=np.ones_like(pull), where=better).astype(np.float32)
    usable = better & np.isfinite(scale) & (scale > np.finfo(np.float32).tiny)
    np.copyto(draft.row_scale, scale, where=usable)


@compiled()
def _visit_batch(
    gradient: Float32Array,
    hessian: Float32Array,
    inverse: Float32Array,
    error: Float32Array,
    codes: Uint8Array,
    row_scale: Float32Array,
    multiplier: Float32Array,
    offset: Float32Array,
    block_size: int,
    first: int,
) -> None:
    """One batch of columns for all rows, the part of one block after another."""
    width = inverse.size
    sums = np.zeros(width, np.float32)
    sum_blocks(hessian, min(block_size, width), sums)
    top = np.float32(TOP)
    for row in range(gradient.shape[0]):
        g = gradient[row]
        c = codes[row, first : first + width]
        e = error[row, first : first + width]
        unit = row_scale[row]
        start = 0
        while start < width:
            block = (first + start) // block_size
            end = min(width, (block + 1) * block_size - first)
            m, b = multiplier[row, block], offset[row, block]
            visit_codes(g, hessian, inverse, e, c, unit * m, start, end, top)
            new, shift = _fit_block(g, hessian, sums, c, unit, m, b, start, end)
            if new != m or shift != b:
                moved = (b - shift) / new  # in steps of the new grid
                move_block(g, hessian, e, c, unit * m, np.float32(0), unit * new, moved, start, end)
                multiplier[row, block], offset[row, block] = new, shift
                visit_codes(g, hessian, inverse, e, c, unit * new, start, end, top)
            start = end


@compiled()
def _fit_block(
    gradient: Float32Array,
    hessian: Float32Array,
    sums: Float32Array,
    codes: Uint8Array,
    unit: np.float32,
    multiplier: np.float32,
    offset: np.float32,
    start: int,
    end: int,
) -> tuple[np.float32, np.float32]:
    """The best multiplier and offset for the codes of one block, all other weights given."""
    Ht = np.zeros(end - start, np.float32)
    for j in range(start, end):
        t = np.float32(codes[j])
        line = hessian[j, start:end]
        for i in range(Ht.size):
            Ht[i] += t * line[i]
    squares = mixed = ones = pull = total = 0.0
    for i in range(Ht.size):
        t = np.float32(codes[start + i])
        slope = np.float64(gradient[start + i] / unit)
        squares += np.float64(t * Ht[i])
        mixed += np.float64(Ht[i])
        ones += np.float64(sums[start + i])
        pull += t * slope
        total += slope
    return _best_integers(multiplier, offset, squares, mixed, ones, pull, total)


@compiled()
def _best_integers(
    multiplier: np.float32, offset: np.float32, squares: float, mixed: float, ones: float, pull: float, total: float
) -> tuple[np.float32, np.float32]:
    """Minimise `a²·tᵀHt + 2ab·tᵀH1 + b²·1ᵀH1 + 2a·tᵀg + 2b·1ᵀg` over integer changes of multiplier and offset.

    Args:
        multiplier: the present one.
        offset: likewise.
        squares: `tᵀHt`, `t` the codes.
        mixed: `tᵀH1`.
        ones: `1ᵀH1`.
        pull: `tᵀg`, `g` the gradient of half the objective, in units of the row's scale.
        total: `1ᵀg`.
    """
    best, reach = (multiplier, offset), float(REACH)
    least = -SMALLEST_GAIN * multiplier * multiplier * squares
    if not ones > 0.0:
        return best
    across = squares - mixed * mixed / ones
    optimum = -(pull - mixed * total / ones) / across if across > 0.0 else 0.0
    nearest = float(multiplier) + min(max(math.floor(optimum), -float(MOST)), float(MOST))
    for option in range(4):
        m = nearest + (option - 1.0) if option < 3 else float(multiplier)
        m = min(max(m, 1.0), float(MOST))
        a = m - multiplier
        b = min(max(np.rint(offset - (total + a * mixed) / ones), -reach), reach - TOP * m) - offset
        loss = a * a * squares + 2.0 * a * b * mixed + b * b * ones + 2.0 * (a * pull + b * total)
        if loss < least:
            least = loss
            best = (np.float32(m), np.float32(offset + b))
    return best
