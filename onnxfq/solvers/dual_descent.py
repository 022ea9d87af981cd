"""Coordinate descent on the codes of dual grids, and on multipliers, offsets and scales of rows between them.

As on other grids (`descent`), with what can be stored in the place of real numbers: the best multiplier and offset for
a block's codes are a minimum over integers, and only the scale of a whole row is free.
"""

from __future__ import annotations

import math

import numpy as np

from onnxfq.arrays import Float32Array, Float64Array
from onnxfq.dual_grain import MOST, REACH, TOP
from onnxfq.solvers.descent import batches, complete, descend, sum_block, visit_codes
from onnxfq.solvers.lanes import FUSED, Lanes, add_product
from onnxfq.solvers.refit import SMALLEST_GAIN
from onnxfq.system.compiled import compiled


def descend_dual(lanes: Lanes, error: Float32Array, hessian: Float32Array, column_batch: int) -> None:
    """Visit every column, and give each block the best integers for its codes and each row the best scale.

    Codes have the last word.

    Args:
        lanes: its steps and grids are changed.
        error: [K, R], `lanes.error()`; kept up to date.
        hessian: [K, K], how errors count.
        column_batch: columns whose gradient comes from one matrix product; whole blocks.
    """
    for first, gradient, within in batches(error, hessian, column_batch):
        columns = slice(first, first + len(within))
        _visit_batch(
            gradient, within, error[columns], lanes.steps[columns], lanes.scale, lanes.lowest, lanes.row_scale,
            lanes.multiplier, lanes.offset, lanes.draft.block_size, first,
        )  # fmt: skip
    _refit_rows(lanes, hessian)
    lanes.scale[:], lanes.shift[:] = lanes.row_scale * lanes.multiplier, lanes.row_scale * lanes.offset
    error[:] = lanes.error()
    descend(lanes, error, hessian, column_batch, refit=False)


def _refit_rows(lanes: Lanes, hessian: Float32Array) -> None:
    """The scale of every row in closed form."""
    blocks = np.arange(len(hessian)) // lanes.draft.block_size
    values = lanes.multiplier[blocks] * lanes.steps + lanes.offset[blocks]
    products = hessian @ values
    squares = np.einsum("kr,kr->r", values, products, dtype=np.float64)
    pull = np.einsum("kr,kr->r", lanes.target, products, dtype=np.float64)
    better = (pull > 0) & (squares > 0)
    scale = np.divide(pull, squares, out=np.ones_like(pull), where=better).astype(np.float32)
    usable = better & np.isfinite(scale) & (scale > np.finfo(np.float32).tiny)
    np.copyto(lanes.row_scale, scale, where=usable)


@compiled(fastmath=FUSED)
def _visit_batch(
    gradient: Float32Array,
    hessian: Float32Array,
    error: Float32Array,
    steps: Float32Array,
    scale: Float32Array,
    lowest: Float32Array,
    row_scale: Float32Array,
    multiplier: Float32Array,
    offset: Float32Array,
    block_size: int,
    first: int,
) -> None:
    """One batch of columns, the part of one block after another."""
    width, count = gradient.shape
    moves, again = np.empty((width, count), np.float32), np.empty((width, count), np.float32)
    Ht, wider, up = np.empty((width, count), np.float32), np.empty(count, np.float32), np.empty(count, np.float32)
    sums, top = np.empty((4, count), np.float64), np.float32(TOP)
    for start in range(0, width, block_size):
        end, block = min(width, start + block_size), (first + start) // block_size
        add_product(hessian, start, end, 0, start, moves, gradient)
        visit_codes(gradient, hessian, steps, moves, scale[block], lowest[block], top, start, end)
        complete(gradient, hessian, moves, start, end)
        ones = sum_block(gradient, hessian, steps, scale[block], Ht, sums, start, end)
        if _fit_block(sums, ones, scale[block], row_scale, multiplier[block], offset[block], wider, up):
            for j in range(start, end):
                g, t, moved, product = gradient[j], steps[j], moves[j], Ht[j]
                together = np.float32(hessian[j, start:end].sum())
                for lane in range(count):
                    g[lane] += wider[lane] * product[lane] + up[lane] * together
                    moved[lane] += wider[lane] * t[lane] + up[lane]
            visit_codes(gradient, hessian, steps, again, scale[block], lowest[block], top, start, end)
            for j in range(start, end):
                moves[j] += again[j]
    for j in range(width):
        error[j] += moves[j]


@compiled()
def _fit_block(
    sums: Float64Array,
    ones: float,
    scale: Float32Array,
    row_scale: Float32Array,
    multiplier: Float32Array,
    offset: Float32Array,
    wider: Float32Array,
    up: Float32Array,
) -> bool:
    """The best multiplier and offset of every row, all other weights given; whether there is a better.

    `wider` and `up` say how far that moves a weight: so much a step, and so much besides.
    """
    found = False
    for lane in range(scale.size):
        m, b, unit = multiplier[lane], offset[lane], np.float64(row_scale[lane])
        squares, mixed = sums[0, lane], sums[1, lane]
        pull = (scale[lane] * squares - sums[2, lane]) / unit
        total = (scale[lane] * mixed - sums[3, lane]) / unit
        multiplier[lane], offset[lane] = _best_integers(m, b, squares, mixed, ones, pull, total)
        scale[lane] = row_scale[lane] * multiplier[lane]
        wider[lane] = row_scale[lane] * (multiplier[lane] - m)
        up[lane] = row_scale[lane] * (offset[lane] - b)
        found |= wider[lane] != 0 or up[lane] != 0
    return found


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
