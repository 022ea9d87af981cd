"""The best scale and integer zero point for codes that stay as they are, in closed form."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Float32Array
from onnxfq.quantized import STORED_TYPES
from onnxfq.scheme import ScaleType
from onnxfq.solvers.draft import Draft
from onnxfq.solvers.rows import EachChunk
from onnxfq.system.compiled import compiled

SMALLEST_GAIN = 1e-6  # of a block's own share of the objective; smaller ones are rounding errors


def splitter(scale_type: ScaleType) -> np.float32:
    """The factor with which `rounded` keeps as many bits as a storage type has."""
    kept = ml_dtypes.finfo(STORED_TYPES[scale_type]).nmant + 1
    return np.float32(2 ** (24 - kept) + 1)


def refit_rows(draft: Draft, hessian: Float32Array, each: EachChunk) -> None:
    """Refit the grid under every whole row, or the one under all rows ("channel" and "tensor")."""
    moments = np.empty((draft.codes.shape[0], 5))

    def add(rows: slice) -> None:
        moments[rows] = _moments(draft.rows(rows), hessian)

    each(add)
    if draft.scheme.block_size == "tensor":
        moments = moments.sum(axis=0, keepdims=True)
    count = moments.shape[0]
    split = splitter(draft.scale_type)
    scale, zero_point = draft.scale[:count, 0].copy(), draft.zero_point[:count, 0].astype(np.float64)
    _refit(moments, draft.top, draft.scheme.symmetric, split, scale, zero_point)
    draft.scale[:, 0], draft.zero_point[:, 0] = scale, zero_point.astype(np.uint8)


def _moments(draft: Draft, hessian: Float32Array) -> npt.NDArray[np.float64]:
    """The five sums that `best_grid` takes, [rows, 5], where a block is a whole row."""
    t = draft.steps()
    Ht = (t @ hessian).astype(np.float64)
    H1 = hessian.sum(axis=0, dtype=np.float64)
    sums = [(Ht * t).sum(axis=1), Ht.sum(axis=1), (Ht * draft.target).sum(axis=1), draft.target @ H1]
    return np.stack([*sums[:2], np.full(t.shape[0], H1.sum()), *sums[2:]], axis=1)


@compiled()
def _refit(
    moments: npt.NDArray[np.float64],
    top: np.float32,
    symmetric: bool,
    split: np.float32,
    scale: Float32Array,
    zero_point: npt.NDArray[np.float64],
) -> None:
    for row in range(moments.shape[0]):
        m = moments[row]
        lowest, highest = (0.0, 0.0) if symmetric else (-zero_point[row], top - zero_point[row])
        scale[row], move = best_grid(scale[row], lowest, highest, m[0], m[1], m[2], m[3], m[4], split)
        zero_point[row] += move


@compiled()
def rounded(value: np.float32, split: np.float32) -> np.float32:
    """The nearest number with fewer bits (Veltkamp's splitting)."""
    spread = np.float32(value * split)
    return np.float32(spread - np.float32(spread - value))


@compiled()
def best_grid(
    step: np.float32,
    lowest: float,
    highest: float,
    squares: float,
    mixed: float,
    ones: float,
    pull: float,
    total: float,
    split: np.float32,
) -> tuple[np.float32, float]:
    """Minimise `s²·tᵀHt − 2s·tᵀh` over `s` and over an integer by which all `t` move down.

    Args:
        step: the present scale.
        lowest: how far the zero point may move: the codes have to hold it.
        highest: the other way; both are 0 where the zero point is fixed, and then `s` may change its sign.
        squares: `tᵀHt`, `t` the codes less the zero point.
        mixed: `tᵀH1`.
        ones: `1ᵀH1`.
        pull: `tᵀh`.
        total: `1ᵀh`.
        split: from `splitter`.

    Returns:
        The new scale, rounded as for storage, and the move; the present scale and 0 where nothing is better.
    """
    best = (step, 0.0)
    least = step * (step * squares - 2.0 * pull) - SMALLEST_GAIN * step * step * squares
    optimum = 0.0
    across, along = total * squares - pull * mixed, pull * ones - total * mixed
    if highest > lowest and along != 0.0:
        optimum = -across / along  # of the problem without integers
    for option in range(3 if highest > lowest else 1):
        move = 0.0 if option == 0 else math.floor(optimum) + (option - 1.0)
        move = min(max(move, lowest), highest)
        curvature = squares - 2.0 * move * mixed + move * move * ones
        slope = pull - move * total
        if curvature > 0.0:
            s = rounded(np.float32(slope / curvature), split)
            loss = s * (s * curvature - 2.0 * slope)
            if loss < least and s != 0 and (s > 0.0 or highest == lowest):
                least = loss
                best = (s, move)
    return best
