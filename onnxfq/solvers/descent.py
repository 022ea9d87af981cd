"""Coordinate descent on codes, and on the blocks' grids between them, under the full objective."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxfq.arrays import Float32Array, Uint8Array
from onnxfq.solvers.draft import Draft
from onnxfq.solvers.refit import best_grid, splitter
from onnxfq.system.compiled import compiled

_FIXED = np.float32(0)  # instead of what `splitter` returns: grids stay


def descend(draft: Draft, hessian: Float32Array, column_batch: int, *, refit: bool) -> None:
    """Visit every column once and give it the best code that there is while the others stay.

    Args:
        draft: its codes are changed, and with `refit` its grids.
        hessian: [K, K], how errors count.
        column_batch: columns whose gradient comes from one matrix product.
        refit: also give every block the best scale and zero point for its codes, and then descend on these once more;
            for blocks that lie within a batch.
    """
    error = draft.dequantized() - draft.target
    split = splitter(draft.scale_type) if refit else _FIXED
    grid = (draft.scale, draft.zero_point, draft.top, draft.scheme.symmetric, draft.block_size, split)
    for first, gradient, within, inverse in batches(error, hessian, column_batch):
        _visit_batch(gradient, within, inverse, error, draft.codes, *grid, first)


def batches(
    error: Float32Array, hessian: Float32Array, column_batch: int
) -> Iterator[tuple[int, Float32Array, Float32Array, Float32Array]]:
    """Columns in batches, each looked at when what was done to those before is in the error.

    Args:
        error: [N, K], changed between batches.
        hessian: [K, K], how errors count.
        column_batch: columns of a batch.

    Yields:
        The first column of a batch; the gradient of its columns [N, batch]; how their errors count among themselves
        [batch, batch]; and the reciprocals of the diagonal [batch].
    """
    inverse, k = np.reciprocal(hessian.diagonal()), len(hessian)
    for first in range(0, k, column_batch):
        last = min(k, first + column_batch)
        gradient: Float32Array = np.matmul(error, hessian[:, first:last])
        yield first, gradient, np.ascontiguousarray(hessian[first:last, first:last]), inverse[first:last]


@compiled()
def _visit_batch(
    gradient: Float32Array,
    hessian: Float32Array,
    inverse: Float32Array,
    error: Float32Array,
    codes: Uint8Array,
    scale: Float32Array,
    zero_point: Uint8Array,
    top: np.float32,
    symmetric: bool,
    block_size: int,
    split: np.float32,
    first: int,
) -> None:
    """One batch of columns for all rows, the part of one block after another."""
    width = inverse.size
    span = min(block_size, width)
    sums = np.zeros(width, np.float32)
    if split > 0:
        sum_blocks(hessian, span, sums)
    for row in range(gradient.shape[0]):
        g = gradient[row]
        c = codes[row, first : first + width]
        e = error[row, first : first + width]
        start = 0
        while start < width:
            block = (first + start) // block_size
            end = min(width, (block + 1) * block_size - first)
            step = scale[row, block]
            zero = np.float32(zero_point[row, block])
            visit_codes(g, hessian, inverse, e, c, step, start, end, top)
            if split > 0:
                new, move = _fit_block(g, hessian, sums, c, step, zero, start, end, top, symmetric, split)
                if new != step or move != 0:
                    move_block(g, hessian, e, c, step, zero, new, np.float32(move), start, end)
                    scale[row, block] = new
                    zero_point[row, block] = np.uint8(np.int32(zero + np.float32(move)))
                    visit_codes(g, hessian, inverse, e, c, new, start, end, top)
            start = end


@compiled()
def sum_blocks(hessian: Float32Array, span: int, sums: Float32Array) -> None:
    """The column sums of every block's own part of the objective."""
    for j in range(sums.size):
        start = j // span * span
        for i in range(start, min(sums.size, start + span)):
            sums[i] += hessian[j, i]


@compiled()
def visit_codes(
    gradient: Float32Array,
    hessian: Float32Array,
    inverse: Float32Array,
    error: Float32Array,
    codes: Uint8Array,
    step: np.float32,
    start: int,
    end: int,
    top: np.float32,
) -> None:
    """The best code for one column after another; the gradient of all columns from `start` follows."""
    unit = np.float32(1) / step
    for j in range(start, end):
        old = np.float32(codes[j])
        code = np.rint(old - gradient[j] * inverse[j] * unit)
        code = code if code > np.float32(0) else np.float32(0)
        code = code if code < top else top
        if code != old:
            delta = (code - old) * step
            codes[j] = np.uint8(np.int32(code))
            error[j] += delta
            line = hessian[j]
            for i in range(start, gradient.size):
                gradient[i] += delta * line[i]


@compiled()
def _fit_block(
    gradient: Float32Array,
    hessian: Float32Array,
    sums: Float32Array,
    codes: Uint8Array,
    step: np.float32,
    zero: np.float32,
    start: int,
    end: int,
    top: np.float32,
    symmetric: bool,
    split: np.float32,
) -> tuple[np.float32, float]:
    """The best scale and move of the zero point for the codes of one block, all other weights given."""
    Ht = np.zeros(end - start, np.float32)
    for j in range(start, end):
        t = np.float32(codes[j]) - zero
        line = hessian[j, start:end]
        for i in range(Ht.size):
            Ht[i] += t * line[i]
    squares = mixed = ones = pull = total = 0.0
    for i in range(Ht.size):
        t = np.float32(codes[start + i]) - zero
        h = np.float64(step * Ht[i] - gradient[start + i])
        squares += np.float64(t * Ht[i])
        mixed += np.float64(Ht[i])
        ones += np.float64(sums[start + i])
        pull += t * h
        total += h
    lowest, highest = (0.0, 0.0) if symmetric else (np.float64(-zero), np.float64(top - zero))
    return best_grid(step, lowest, highest, squares, mixed, ones, pull, total, split)


@compiled()
def move_block(
    gradient: Float32Array,
    hessian: Float32Array,
    error: Float32Array,
    codes: Uint8Array,
    old: np.float32,
    zero: np.float32,
    new: np.float32,
    move: np.float32,
    start: int,
    end: int,
) -> None:
    """Put the codes of one block on another grid; the gradient of all columns from `start` follows."""
    for j in range(start, end):
        t = np.float32(codes[j]) - zero
        delta = new * (t - move) - old * t
        error[j] += delta
        line = hessian[j]
        for i in range(start, gradient.size):
            gradient[i] += delta * line[i]
