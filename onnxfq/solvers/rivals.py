"""What would have come out without calibration, for the rows that are most likely to have been better off with it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Float32Array, Float64Array
from onnxfq.solvers.curvature import Moments
from onnxfq.solvers.draft import Draft, on_fitted_grid, row_losses
from onnxfq.solvers.rows import EachChunk, row_threads

_TRIED = 32  # rows at once


def keep_best_rows(
    draft: Draft,
    weight: Float32Array,
    asymmetry: Float32Array | None,
    moments: Moments,
    each: EachChunk,
    *,
    every: bool = False,
) -> None:
    """Take over the rows for which `Hqq`, weighted by the inputs or not, does better on the calibration data.

    Rows that are least below what rounding to nearest costs on average are tried first, some at once; where no row of
    these is worse than `Hqq` makes it, nor will those be that are further below, unless codes are the nearest, too:
    then `every` row has to be tried.
    """
    losses = row_losses(draft, weight, asymmetry, moments, each)
    columns = np.arange(weight.shape[1]) // draft.block_size
    usual = np.square(draft.scale, dtype=np.float64) @ np.bincount(columns, moments.importance)
    order = np.argsort(-np.nan_to_num(losses / np.maximum(usual, np.finfo(np.float64).tiny), nan=np.inf), kind="stable")
    tried = len(order) if every or draft.scheme.block_size == "tensor" else _TRIED
    for first in range(0, len(order), tried):
        if not _try(draft, weight, asymmetry, moments, np.sort(order[first : first + tried]), losses):
            return


def _try(
    draft: Draft,
    weight: Float32Array,
    asymmetry: Float32Array | None,
    moments: Moments,
    rows: npt.NDArray[np.intp],
    losses: Float64Array,
) -> bool:
    """Whether any of some rows was worse than without calibration; then it is so no more."""
    part, term = weight[rows], None if asymmetry is None else asymmetry[rows]
    found = False
    with row_threads(len(rows)) as each:
        for importance in (moments.importance, np.ones_like(moments.importance)):
            rival = on_fitted_grid(part, importance, draft.scheme, draft.scale_type)
            others = row_losses(rival, part, term, moments, each)
            worse = ~(losses[rows] <= others)  # also where they are no numbers at all
            draft.take(rows[worse], rival, worse)
            losses[rows[worse]] = others[worse]
            found |= bool(worse.any())
    return found
