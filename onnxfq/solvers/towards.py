"""Codes and grids for a real-valued target, under the damped second moments of its inputs."""

from __future__ import annotations

import numpy as np

from onnxfq.arrays import Float32Array
from onnxfq.quantized import round_scale
from onnxfq.scheme import ScaleType, Scheme
from onnxfq.solvers.curvature import Curvature
from onnxfq.solvers.descent import descend
from onnxfq.solvers.draft import Draft, on_fitted_grid
from onnxfq.solvers.dual_descent import descend_dual
from onnxfq.solvers.feedback import code_with_feedback
from onnxfq.solvers.lanes import Lanes
from onnxfq.solvers.range_grid import range_grid
from onnxfq.solvers.refit import refit_rows
from onnxfq.solvers.rows import EachChunk
from onnxfq.solvers.start import fit_start


def solve_towards(
    target: Float32Array,
    known: Curvature,
    scheme: Scheme,
    scale_type: ScaleType,
    passes: int,
    each: EachChunk,
    *,
    column_batch: int = 128,
) -> Draft:
    """Grids fitted to a target, codes with error feedback, then both improved in turn.

    What a row becomes does not depend on other rows, but for "tensor", and the work is proportional to how many there
    are: a sample of rows tells what all would cost.

    Args:
        target: [N, K], contiguous; not modified.
        known: the inputs' second moments.
        scheme: bits, granularity and symmetry.
        scale_type: the type scales will be stored in.
        passes: how many times codes and grids are improved.
        each: from `row_threads` of the target's rows.
        column_batch: columns between two matrix products; for speed only.
    """
    fresh = passes > 0 and isinstance(scheme.block_size, int) and not scheme.dual_grained  # a short search will do
    if fresh:
        codes = np.zeros(target.shape, np.uint8)
        draft = Draft(target, codes, *range_grid(target, scheme, scale_type), scheme, scale_type)
    else:
        draft = on_fitted_grid(target, known.importance, scheme, scale_type)
    _code(draft, known, passes, column_batch, each, fit=fresh)
    return draft


def _code(
    draft: Draft, known: Curvature, passes: int, column_batch: int, each: EachChunk, *, fit: bool = False
) -> None:
    """Code with feedback, then refine; the grid is always one that can be stored when codes have the last word.

    With `fit` the grid to start from is searched for near the min/max grid that is there.
    """
    if not isinstance(draft.scheme.block_size, int):
        _code_whole_rows(draft, known, passes, column_batch, each)
        return
    batch = -(-column_batch // draft.block_size) * draft.block_size

    def work(rows: slice) -> None:
        lanes = Lanes.of(draft.rows(rows), coded=False)
        if fit:
            fit_start(lanes, known.importance)
        code_with_feedback(lanes, known, column_batch)
        error = lanes.error() if passes else lanes.target
        for _ in range(passes):
            if draft.row_scale is None:
                descend(lanes, error, known.hessian, batch, refit=True)
            else:
                descend_dual(lanes, error, known.hessian, batch)
        if passes and draft.row_scale is None:
            lanes.scale[:] = round_scale(lanes.scale, draft.scale_type)
            descend(lanes, lanes.error(), known.hessian, batch, refit=False)
        lanes.store()

    each(work)


def _code_whole_rows(draft: Draft, known: Curvature, passes: int, column_batch: int, each: EachChunk) -> None:
    """The same where a row, or all of them, share a grid, and so all of them are refitted before any goes on."""

    def code(rows: slice) -> None:
        lanes = Lanes.of(draft.rows(rows))
        code_with_feedback(lanes, known, column_batch)
        lanes.store()

    def improve(rows: slice) -> None:
        lanes = Lanes.of(draft.rows(rows))
        descend(lanes, lanes.error(), known.hessian, column_batch, refit=False)
        lanes.store()

    each(code)
    for _ in range(passes):
        refit_rows(draft, known.hessian, each)
        draft.hold_pairs()
        each(improve)
    if passes:
        draft.scale[:] = round_scale(draft.scale, draft.scale_type)
        each(improve)
