"""Codes of some columns given anew, with error feedback, while all others stay: a way out of where descent ends.

With few bits a code is a large part of a weight, and no single one can be changed without loss long before all of them
together are good. Parts are drawn at random, the same for all rows, so that these share what it costs to factorize.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Float32Array, Float64Array
from onnxfq.quantized import round_scale
from onnxfq.solvers.curvature import Curvature, inverse_factor
from onnxfq.solvers.descent import descend
from onnxfq.solvers.draft import Draft
from onnxfq.solvers.dual_descent import descend_dual
from onnxfq.solvers.feedback import code_with_feedback
from onnxfq.solvers.lanes import FUSED, Lanes, take_lanes
from onnxfq.solvers.rows import EachChunk
from onnxfq.system.compiled import compiled
from onnxfq.system.threads import spread

_SHARE = 0.35  # of the columns that get codes anew
_GATHERED = 256  # rows of `H` that a thread copies at once
_KEPT = 1 << 24  # numbers of factors that are in memory at once


@dataclass(frozen=True, slots=True, eq=False)
class Recoded:
    """A chunk of rows with codes, and how far off they are; the arrays are changed in place.

    Attributes:
        lanes: the rows.
        error: [K, R], the weights so far less what they ought to be.
        slopes: [K, R], the damped `H` times that: what descent goes down, halved.
    """

    lanes: Lanes
    error: Float32Array
    slopes: Float32Array

    @classmethod
    def of(cls, lanes: Lanes, known: Curvature) -> Recoded:
        """As the rows are."""
        error = lanes.error()
        return cls(lanes, error, known.hessian @ error)

    def copy(self) -> Recoded:
        """The same with arrays of its own."""
        return Recoded(self.lanes.copy(), self.error.copy(), self.slopes.copy())

    def losses(self) -> Float64Array:
        """What descent makes smaller, of every row [R]."""
        sums = np.zeros(self.error.shape[1])
        _add_products(self.error, self.slopes, sums)
        return sums

    def take(self, rows: npt.NDArray[np.bool_], other: Recoded) -> None:
        """Take over some rows, told by a mask [R]."""
        self.lanes.take(rows, other.lanes)
        take_lanes(self.error, other.error, rows)
        take_lanes(self.slopes, other.slopes, rows)


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
    for parts in _drawn(known, times):
        each(partial(_recode_rows, draft, known, parts, column_batch))


def _drawn(known: Curvature, times: int) -> Iterator[list[Curvature]]:
    """Parts of the columns, every time the same ones, as many at once as their factors leave room for.

    Of each, the curvature of its columns while all others stay, in the order in which they are coded.
    """
    random, count = np.random.Generator(np.random.PCG64(0)), known.importance.size
    size = max(1, round(_SHARE * count))
    chosen = [np.sort(random.choice(count, size, replace=False)) for _ in range(times)]
    columns = [own[np.argsort(-known.importance[own], kind="stable")] for own in chosen]
    together = max(1, _KEPT // size**2)
    for first in range(0, times, together):
        parts = [replace(known, order=own) for own in columns[first : first + together]]
        spread(_factorize, len(parts), parts)
        yield parts


def _factorize(begin: int, end: int, parts: list[Curvature]) -> None:
    for index in range(begin, end):
        own = parts[index].order
        factor, _ = inverse_factor(parts[index].hessian[np.ix_(own, own)].astype(np.float64), 0.0)
        parts[index] = replace(parts[index], factor=factor)


def _recode_rows(draft: Draft, known: Curvature, parts: Sequence[Curvature], column_batch: int, rows: slice) -> None:
    """Some rows, one part of the columns after another."""
    best = Recoded.of(Lanes.of(draft.rows(rows)), known)
    losses = best.losses()
    for part in parts:
        rival = best.copy()
        code_with_feedback(replace(rival.lanes, target=_given_others(best, part)), part, column_batch)
        _move(rival, part.order, known)
        _improve(rival, known, column_batch)
        others = rival.losses()
        better = ~(losses <= others)  # also where they are no numbers at all
        best.take(better, rival)
        np.copyto(losses, others, where=better)
    best.lanes.store()


def _given_others(found: Recoded, part: Curvature) -> Float32Array:
    """What a part's weights ought to be while all others stay, among the targets of all, [K, R]."""
    columns, target = part.order, found.lanes.target.copy()
    target[columns] += found.error[columns] - part.factor.T @ (part.factor @ found.slopes[columns])
    return target


def _move(found: Recoded, columns: npt.NDArray[np.intp], known: Curvature) -> None:
    """Bring error and slopes up to date with what was done to some columns."""
    before = found.error[columns]
    found.error[:] = found.lanes.error()
    moves = found.error[columns] - before
    for first in range(0, len(columns), _GATHERED):
        part = slice(first, first + _GATHERED)
        np.add(found.slopes, known.hessian[columns[part]].T @ moves[part], out=found.slopes)


def _improve(found: Recoded, known: Curvature, column_batch: int) -> None:
    """Descend on all codes, and on the grids of blocks, which end up as they can be stored."""
    lanes, draft = found.lanes, found.lanes.draft
    in_blocks = isinstance(draft.scheme.block_size, int)
    batch = -(-column_batch // draft.block_size) * draft.block_size if in_blocks else column_batch
    if draft.row_scale is not None:
        descend_dual(lanes, found.error, known.hessian, batch)
        np.matmul(known.hessian, found.error, out=found.slopes)
        return
    descend(lanes, found.error, known.hessian, batch, refit=in_blocks, slopes=found.slopes)
    if not in_blocks:
        return
    stored = round_scale(lanes.scale, draft.scale_type)
    if not np.array_equal(stored, lanes.scale):
        lanes.scale[:] = stored
        found.error[:] = lanes.error()
        np.matmul(known.hessian, found.error, out=found.slopes)


@compiled(fastmath=FUSED)
def _add_products(left: Float32Array, right: Float32Array, sums: Float64Array) -> None:
    """Add `Σ_k left·right` of every lane to its sum."""
    for column in range(left.shape[0]):
        a, b = left[column], right[column]
        for lane in range(sums.size):
            sums[lane] += np.float64(a[lane]) * np.float64(b[lane])
