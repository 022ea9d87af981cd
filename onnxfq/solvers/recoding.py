"""Codes of some columns given anew, with error feedback, while all others stay: a way out of where descent ends.

With few bits a code is a large part of a weight, and no single one can be changed without loss long before all of them
together are good. Parts are drawn at random, the same for all rows, so that these share what it costs to factorize.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Float32Array, Float64Array
from onnxfq.quantized import round_scale
from onnxfq.solvers.curvature import Curvature, inverse_factor
from onnxfq.solvers.descent import descend
from onnxfq.solvers.draft import Draft, take_better_rows
from onnxfq.solvers.dual_descent import descend_dual
from onnxfq.solvers.feedback import code_with_feedback
from onnxfq.solvers.lanes import Lanes
from onnxfq.solvers.rows import EachChunk

_SHARE = 0.35  # of the columns that get codes anew


@dataclass(frozen=True, slots=True, eq=False)
class ColumnPart:
    """Some columns, and what coding these with feedback needs.

    Attributes:
        columns: [S], in the order in which they are coded.
        slopes: [S, K], these rows of the damped `H`.
        known: the curvature of these columns alone while all others stay.
    """

    columns: npt.NDArray[np.intp]
    slopes: Float32Array
    known: Curvature


def recode_parts(draft: Draft, known: Curvature, times: int, column_batch: int, each: EachChunk) -> None:
    """Give parts of the columns codes anew, descend on all, and keep the rows that are better for it.

    Grids of blocks are refitted on the way; those under whole rows stay as they are.

    Args:
        draft: with codes; changed in place. No row gets worse, but by what sums round.
        known: the curvature of all columns.
        times: how many parts.
        column_batch: columns of a batch, for speed only.
        each: from `row_threads` of the draft's rows.
    """
    if not times:
        return
    losses = np.empty(draft.target.shape[0], np.float64)

    def weigh(rows: slice) -> None:
        losses[rows] = _losses(Lanes.of(draft.rows(rows)), known)

    each(weigh)
    for part in _drawn(known, times):
        each(partial(_recode, draft, losses, known, part, column_batch))


def _drawn(known: Curvature, times: int) -> Iterator[ColumnPart]:
    """Parts of the columns, every time the same ones."""
    random, count = np.random.Generator(np.random.PCG64(0)), known.importance.size
    for _ in range(times):
        chosen = np.sort(random.choice(count, max(1, round(_SHARE * count)), replace=False))
        columns = chosen[np.argsort(-known.importance[chosen], kind="stable")]
        slopes = np.ascontiguousarray(known.hessian[columns])
        factor, _ = inverse_factor(slopes[:, columns].astype(np.float64), 0.0)
        yield ColumnPart(columns, slopes, replace(known, order=columns, factor=factor))


def _recode(
    draft: Draft, losses: Float64Array, known: Curvature, part: ColumnPart, column_batch: int, rows: slice
) -> None:
    """Some rows; their losses are changed in place too."""
    known_rows = draft.rows(rows)
    rival = known_rows.copy()
    lanes = Lanes.of(rival)
    code_with_feedback(replace(lanes, target=_given_others(lanes, part)), part.known, column_batch)
    _improve(lanes, known, column_batch)
    lanes.store()
    losses[rows] = take_better_rows(known_rows, rival, losses[rows], _losses(lanes, known))


def _improve(lanes: Lanes, known: Curvature, column_batch: int) -> None:
    """Descend on all codes, and on the grids of blocks, which end up as they can be stored."""
    draft, error = lanes.draft, lanes.error()
    in_blocks = isinstance(draft.scheme.block_size, int)
    batch = -(-column_batch // draft.block_size) * draft.block_size if in_blocks else column_batch
    if draft.row_scale is not None:
        descend_dual(lanes, error, known.hessian, batch)
        return
    descend(lanes, error, known.hessian, batch, refit=in_blocks)
    if in_blocks:
        lanes.scale[:] = round_scale(lanes.scale, draft.scale_type)


def _losses(lanes: Lanes, known: Curvature) -> Float64Array:
    """What descent makes smaller, of every row [R]."""
    error = lanes.error()
    return np.asarray(np.einsum("kn,kn->n", error, known.hessian @ error, dtype=np.float64))


def _given_others(lanes: Lanes, part: ColumnPart) -> Float32Array:
    """What a part's weights ought to be while all others stay, among the targets of all, [K, R]."""
    error, factor, target = lanes.error(), part.known.factor, lanes.target.copy()
    target[part.columns] += error[part.columns] - factor.T @ (factor @ (part.slopes @ error))
    return target
