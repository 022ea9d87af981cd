"""Codes that another has found are taken over, row by row, where they are better on the calibration data."""

from __future__ import annotations

import numpy as np

from onnxfq.arrays import Float32Array, Float64Array
from onnxfq.scheme import ScaleType, Scheme
from onnxfq.solvers.blocks import encode
from onnxfq.solvers.curvature import Moments
from onnxfq.solvers.draft import Draft
from onnxfq.solvers.grid import fitted_grid
from onnxfq.solvers.rows import EachChunk
from onnxfq.solvers.target import row_losses


def on_fitted_grid(weight: Float32Array, importance: Float32Array, scheme: Scheme, scale_type: ScaleType) -> Draft:
    """Every weight at the nearest point of its block's fitted grid."""
    scale, zero_point = fitted_grid(weight, importance, scheme, scale_type)
    codes = encode(weight, scale, zero_point, scheme.bits, scheme.columns_per_block(weight.shape[1]))
    return Draft(weight, codes, scale, zero_point, scheme, scale_type)


def keep_up(
    draft: Draft, weight: Float32Array, drift: Float32Array | None, moments: Moments, each: EachChunk
) -> Float64Array:
    """Take over the rows for which `Hqq`, weighted by the inputs or not, does better on the calibration data.

    Returns:
        The losses that are left; see `row_losses`.
    """
    losses = row_losses(draft, weight, drift, moments, each)
    for importance in (moments.importance, np.ones_like(moments.importance)):
        rival = on_fitted_grid(weight, importance, draft.scheme, draft.scale_type)
        losses = take_better(draft, rival, losses, row_losses(rival, weight, drift, moments, each))
    return losses


def take_better(draft: Draft, rival: Draft, losses: Float64Array, others: Float64Array) -> Float64Array:
    """Take over the rows for which the rival's loss is smaller; return what losses are left."""
    worse = ~(losses <= others)  # also where they are no numbers at all
    draft.codes[worse], draft.scale[worse] = rival.codes[worse], rival.scale[worse]
    draft.zero_point[worse] = rival.zero_point[worse]
    return np.where(worse, others, losses)
