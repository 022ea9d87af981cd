"""Coordinate descent on codes, and on the blocks' grids between them, under the full objective."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxfq.arrays import Float32Array, Float64Array
from onnxfq.solvers.lanes import FUSED, Lanes, add_product
from onnxfq.solvers.refit import best_grid, splitter
from onnxfq.system.compiled import compiled

_FIXED = np.float32(0)  # instead of what `splitter` returns: grids stay
_PIECE = 16  # columns that reach each other one by one; others reach them in a small product
_SPAN = 32  # columns that are treated as a block where blocks are whole rows


def descend(
    lanes: Lanes,
    error: Float32Array,
    hessian: Float32Array,
    column_batch: int,
    *,
    refit: bool,
    slopes: Float32Array | None = None,
) -> None:
    """Visit every column once and give it the best code that there is while the others stay.

    Args:
        lanes: its steps are changed, and with `refit` its grids.
        error: [K, R], `lanes.error()`; kept up to date.
        hessian: [K, K], how errors count.
        column_batch: columns whose gradient comes from one matrix product.
        refit: also give every block the best scale and zero point for its codes, and then descend on these once more;
            for blocks that lie within a batch.
        slopes: [K, R], `hessian @ error` where it is known; kept up to date.
    """
    draft = lanes.draft
    split = splitter(draft.scale_type) if refit else _FIXED
    span = min(draft.block_size, _SPAN) if not refit else draft.block_size
    for first, gradient, within in batches(error, hessian, column_batch, slopes):
        last = first + len(within)
        _visit_batch(
            gradient, within, error[first:last], lanes.steps[first:last], lanes.scale, lanes.lowest, draft.top,
            draft.scheme.symmetric, draft.block_size, span, split, first,
        )  # fmt: skip


def batches(
    error: Float32Array, hessian: Float32Array, column_batch: int, slopes: Float32Array | None = None
) -> Iterator[tuple[int, Float32Array, Float32Array]]:
    """Columns in batches, each looked at when what was done to those before is in the error.

    Args:
        error: [K, R], changed between batches.
        hessian: [K, K], how errors count.
        column_batch: columns of a batch.
        slopes: [K, R], `hessian @ error` where it is known; kept up to date.

    Yields:
        The first column of a batch; the gradient of its columns [batch, R]; and how their errors count among
        themselves [batch, batch].
    """
    k = len(hessian)
    for first in range(0, k, column_batch):
        last = min(k, first + column_batch)
        within = np.ascontiguousarray(hessian[first:last, first:last])
        if slopes is None:
            yield first, np.matmul(hessian[first:last], error), within
            continue
        before = error[first:last].copy()
        yield first, slopes[first:last].copy(), within
        np.add(slopes, hessian[first:last].T @ (error[first:last] - before), out=slopes)


@compiled(fastmath=FUSED)
def _visit_batch(
    gradient: Float32Array,
    hessian: Float32Array,
    error: Float32Array,
    steps: Float32Array,
    scale: Float32Array,
    lowest: Float32Array,
    top: np.float32,
    symmetric: bool,
    block_size: int,
    span: int,
    split: np.float32,
    first: int,
) -> None:
    """One batch of columns, the part of one block after another."""
    width, count = gradient.shape
    moves, again = np.empty((width, count), np.float32), np.empty((width, count), np.float32)
    Ht, move, step = np.empty((width, count), np.float32), np.empty(count, np.float32), np.empty(count, np.float32)
    sums = np.empty((4, count), np.float64)
    for start in range(0, width, span):
        end, block = min(width, start + span), (first + start) // block_size
        add_product(hessian, start, end, 0, start, moves, gradient)
        visit_codes(gradient, hessian, steps, moves, scale[block], lowest[block], top, start, end)
        if split > 0:
            complete(gradient, hessian, moves, start, end)
            ones = sum_block(gradient, hessian, steps, scale[block], Ht, sums, start, end)
            if _fit_block(sums, ones, scale[block], lowest[block], top, symmetric, split, step, move):
                _move_block(gradient, hessian, Ht, steps, moves, scale[block], lowest[block], step, move, start, end)
                visit_codes(gradient, hessian, steps, again, scale[block], lowest[block], top, start, end)
                for j in range(start, end):
                    moves[j] += again[j]
    for j in range(width):
        error[j] += moves[j]


@compiled(fastmath=FUSED)
def visit_codes(
    gradient: Float32Array,
    hessian: Float32Array,
    steps: Float32Array,
    moves: Float32Array,
    scale: Float32Array,
    lowest: Float32Array,
    top: np.float32,
    start: int,
    end: int,
) -> None:
    """The best code for one column after another; `moves` says how far weights went.

    The gradient of a piece of columns follows what was done to these and to pieces before, not to those behind.
    """
    unit = np.float32(1) / scale
    for begin in range(start, end, _PIECE):
        stop = min(end, begin + _PIECE)
        add_product(hessian, begin, stop, start, begin, moves, gradient)
        for j in range(begin, stop):
            g, t, moved = gradient[j], steps[j], moves[j]
            inverse = np.float32(1) / hessian[j, j]
            for lane in range(g.size):
                old, low = t[lane], lowest[lane]
                code = np.rint(old - g[lane] * inverse * unit[lane])
                code = code if code > low else low
                code = code if code < low + top else low + top
                t[lane] = code
                moved[lane] = (code - old) * scale[lane]
            for i in range(begin, stop):
                part, line = hessian[j, i], gradient[i]
                for lane in range(g.size):
                    line[lane] += part * moved[lane]


@compiled(fastmath=FUSED)
def complete(gradient: Float32Array, hessian: Float32Array, moves: Float32Array, start: int, end: int) -> None:
    """What `visit_codes` did to later pieces of a block, into the gradient of those before."""
    for begin in range(start, end, _PIECE):
        stop = min(end, begin + _PIECE)
        add_product(hessian, begin, stop, stop, end, moves, gradient)


@compiled(fastmath=FUSED)
def sum_block(
    gradient: Float32Array,
    hessian: Float32Array,
    steps: Float32Array,
    scale: Float32Array,
    Ht: Float32Array,
    sums: Float64Array,
    start: int,
    end: int,
) -> float:
    """The sums that `best_grid` takes: `tᵀHt`, `tᵀH1`, `tᵀh` and `1ᵀh` of every row [4, R]; returns `1ᵀH1`."""
    ones = 0.0
    Ht[start:end] = 0
    sums[:] = 0
    add_product(hessian, start, end, start, end, steps, Ht)
    squares, mixed, pull, total = sums[0], sums[1], sums[2], sums[3]
    for j in range(start, end):
        g, t, product = gradient[j], steps[j], Ht[j]
        for lane in range(g.size):
            h = np.float64(scale[lane] * product[lane] - g[lane])
            squares[lane] += np.float64(t[lane] * product[lane])
            mixed[lane] += np.float64(product[lane])
            pull[lane] += np.float64(t[lane]) * h
            total[lane] += h
        for i in range(start, end):
            ones += np.float64(hessian[j, i])
    return ones


@compiled()
def _fit_block(
    sums: Float64Array,
    ones: float,
    scale: Float32Array,
    lowest: Float32Array,
    top: np.float32,
    symmetric: bool,
    split: np.float32,
    step: Float32Array,
    move: Float32Array,
) -> bool:
    """The best scale and move of the zero point of every row, all other weights given; whether there is a better."""
    found = False
    for lane in range(scale.size):
        low = np.float64(lowest[lane])
        least, most = (0.0, 0.0) if symmetric else (low, low + top)
        squares, mixed, pull, total = sums[0, lane], sums[1, lane], sums[2, lane], sums[3, lane]
        step[lane], down = best_grid(scale[lane], least, most, squares, mixed, ones, pull, total, split)
        move[lane] = np.float32(down)
        found |= step[lane] != scale[lane] or down != 0
    return found


@compiled(fastmath=FUSED)
def _move_block(
    gradient: Float32Array,
    hessian: Float32Array,
    Ht: Float32Array,
    steps: Float32Array,
    moves: Float32Array,
    scale: Float32Array,
    lowest: Float32Array,
    step: Float32Array,
    move: Float32Array,
    start: int,
    end: int,
) -> None:
    """Put the codes of one block on another grid."""
    for j in range(start, end):
        g, t, moved, product = gradient[j], steps[j], moves[j], Ht[j]
        ones = np.float32(hessian[j, start:end].sum())
        for lane in range(g.size):
            wider, down = step[lane] - scale[lane], step[lane] * move[lane]
            g[lane] += wider * product[lane] - down * ones
            moved[lane] += wider * t[lane] - down
            t[lane] -= move[lane]
    for lane in range(scale.size):
        scale[lane] = step[lane]
        lowest[lane] -= move[lane]
