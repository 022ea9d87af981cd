"""What the weights of a stage ought to be, given what earlier stages made of its inputs; and how far off codes are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Float32Array
from onnxfq.solvers.curvature import Curvature, Moments
from onnxfq.solvers.draft import Draft
from onnxfq.solvers.rows import EachChunk


def drifts(weight: Float32Array, moments: Moments, each: EachChunk) -> Float32Array | None:
    """`W(G − H)`, [N, K]: how the error of earlier stages shows in the weight's outputs; None where there is none."""
    if moments.drift is None:
        return None
    drift, out = moments.drift, np.empty_like(weight)

    def multiply(rows: slice) -> None:
        out[rows] = weight[rows] @ drift

    each(multiply)
    return out


def aim(
    weight: Float32Array, drift: Float32Array | None, curvature: Curvature, alpha: float, each: EachChunk
) -> Float32Array:
    """`W + α·W(G − H)(H + λI)⁻¹`, [N, K]: with α = 1 and λ = 0 the best real-valued weight for the inputs as they are.

    Source: the closed form is that of GPTAQ (Y. Li et al., 2025), solved once instead of column by column.
    """
    if drift is None or curvature.target_factor is None or alpha == 0:
        return weight
    factor, order, target = curvature.target_factor, curvature.order, weight.copy()

    def correct(rows: slice) -> None:
        moved = weight[rows].copy()
        moved[:, order] += np.float32(alpha) * ((drift[rows][:, order] @ factor.T) @ factor)
        usable = np.isfinite(moved).all(axis=1, keepdims=True)
        np.copyto(target[rows], moved, where=usable)

    each(correct)
    return target


def row_losses(
    draft: Draft, weight: Float32Array, drift: Float32Array | None, moments: Moments, each: EachChunk
) -> npt.NDArray[np.float64]:
    """`E‖w x − ŵ x̃‖²` of every row [N] on the calibration data, in parts of the mean of diag H, less a constant.

    Where all rows share one grid, each has the loss of all.
    """
    losses = np.empty(weight.shape[0], np.float64)
    added = moments.hessian.diagonal() - moments.importance

    def add(rows: slice) -> None:
        error = draft.rows(rows).dequantised() - weight[rows]
        slope = error @ moments.hessian - error * added
        if drift is not None:
            slope -= 2 * drift[rows]
        losses[rows] = np.einsum("nk,nk->n", error, slope, dtype=np.float64)

    each(add)
    return np.full_like(losses, losses.sum()) if draft.scheme.block_size == "tensor" else losses


def objective(draft: Draft, moments: Moments, each: EachChunk) -> npt.NDArray[np.float64]:
    """What descent makes smaller, for every row [N]: `(ŵ − w*) H (ŵ − w*)ᵀ` with the damped H.

    Where all rows share one grid, each has that of all.
    """
    losses = np.empty(draft.target.shape[0], np.float64)

    def add(rows: slice) -> None:
        error = draft.rows(rows).dequantised() - draft.target[rows]
        losses[rows] = np.einsum("nk,nk->n", error, error @ moments.hessian, dtype=np.float64)

    each(add)
    return np.full_like(losses, losses.sum()) if draft.scheme.block_size == "tensor" else losses
