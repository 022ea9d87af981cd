"""A weight while its codes are still being improved: what it ought to be, how far off it is, and the better of two."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Array, Float32Array, Float64Array, Uint8Array
from onnxfq.dual_grain import DualGrid
from onnxfq.quantized import QuantizedWeight
from onnxfq.scheme import ScaleType, Scheme
from onnxfq.solvers.blocks import dot_rows, encode
from onnxfq.solvers.curvature import Curvature, Moments
from onnxfq.solvers.dual_grid import dual_codes, fitted_dual_grid
from onnxfq.solvers.grid import fitted_grid
from onnxfq.solvers.pairs import smallest_scale
from onnxfq.solvers.rows import EachChunk
from onnxfq.solvers.triangular import times_inverse


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """What a weight ought to be and what it is so far; the arrays of codes and grids are changed in place.

    Attributes:
        target: [N, K], what the weights ought to be.
        codes: [N, K].
        scale: [N, blocks].
        zero_point: [N, blocks]; float32 with a `row_scale`.
        scheme: bits, blocks and symmetry.
        scale_type: the type in which scales will be stored.
        row_scale: [N], where scales and zero points are those of a `DualGrid`.
    """

    target: Float32Array
    codes: Uint8Array
    scale: Float32Array
    zero_point: Array
    scheme: Scheme
    scale_type: ScaleType
    row_scale: Float32Array | None = None

    @property
    def _changed(self) -> dict[str, Array]:
        arrays: dict[str, Array] = {"codes": self.codes, "scale": self.scale, "zero_point": self.zero_point}
        return arrays if self.row_scale is None else {**arrays, "row_scale": self.row_scale}

    @property
    def block_size(self) -> int:
        """How many columns share a scale."""
        return self.scheme.columns_per_block(self.target.shape[1])

    @property
    def top(self) -> np.float32:
        """The largest code."""
        return np.float32(self.scheme.levels - 1)

    def copy(self) -> Draft:
        """Codes and grids of its own, for the same target."""
        arrays: dict[str, Any] = {name: array.copy() for name, array in self._changed.items()}
        return replace(self, **arrays)

    def hold_pairs(self) -> None:
        """Make scales large enough for neighbours that are too large together, where the format asks for that."""
        if self.scheme.fits_pairs:
            smallest = smallest_scale(self.target, self.scale_type)[:, None]
            self.scale[:] = np.copysign(np.maximum(np.abs(self.scale), smallest), self.scale)

    def rows(self, rows: slice) -> Draft:
        """Some rows, sharing memory with the whole."""
        part: dict[str, Any] = {name: array[rows] for name, array in self._changed.items()}
        return replace(self, target=self.target[rows], **part)

    def take(self, rows: npt.NDArray[Any], other: Draft, theirs: npt.NDArray[Any] | None = None) -> None:
        """Take over some rows of another draft on grids of the same kind, there the same or those named."""
        for name, array in self._changed.items():
            array[rows] = other._changed[name][rows if theirs is None else theirs]

    def steps(self) -> Float32Array:
        """Codes less zero points, [N, K]."""
        steps = self.codes.astype(np.float32)
        steps -= np.repeat(self.zero_point, self.block_size, axis=1)[:, : steps.shape[1]]
        return steps

    def dequantized(self) -> Float32Array:
        """The weights so far, [N, K]."""
        weights = self.steps()
        weights *= np.repeat(self.scale, self.block_size, axis=1)[:, : weights.shape[1]]
        return weights

    def finished(self, remarks: tuple[str, ...]) -> QuantizedWeight:
        """What a solver returns."""
        return QuantizedWeight(
            codes=self.codes,
            scale=self.scale,
            zero_point=self.zero_point,
            bits=self.scheme.bits,
            block_size=self.block_size,
            scale_type=self.scale_type,
            symmetric=self.scheme.symmetric,
            remarks=remarks,
            row_scale=self.row_scale,
        )


def asymmetric_term(
    weight: Float32Array,
    moments: Moments,
    each: EachChunk,
    *,
    alpha: float = 1.0,
    drift: Float64Array | None = None,
    share: float = 0.0,
) -> Float32Array | None:
    """`α·W(G − H) + a·E[(r − r̃)x̃ᵀ]`, [N, K]: how errors of earlier stages show in the outputs; None where none do.

    Args:
        weight: [N, K].
        moments: of the inputs.
        each: calls a function with every chunk of rows.
        alpha: how much of the error of the weight's own inputs counts.
        drift: [N, K], `E[(r − r̃)x̃ᵀ]`, not normalized; None without a residual.
        share: how much of it counts.
    """
    asymmetry = moments.asymmetry if alpha else None
    own = drift if share else None
    if asymmetry is None and own is None:
        return None
    out = np.zeros_like(weight)

    def multiply(rows: slice) -> None:
        if asymmetry is not None:
            out[rows] = np.float32(alpha) * (weight[rows] @ asymmetry)
        if own is not None:
            out[rows] += np.float32(share / moments.size) * own[rows].astype(np.float32)

    each(multiply)
    return out


def compensate(weight: Float32Array, pull: Float32Array | None, curvature: Curvature, each: EachChunk) -> Float32Array:
    """`W + pull·(H + λI)⁻¹`, [N, K]: with λ = 0 and all of the pull the best real-valued weight for the inputs as are.

    Source: the closed form is that of GPTAQ (Y. Li et al., 2025), solved once instead of column by column.
    """
    if pull is None:
        return weight
    factor, order, target = curvature.target_factor, curvature.order, weight.copy()

    def correct(rows: slice) -> None:
        moved = weight[rows].copy()
        moved[:, order] += times_inverse(np.ascontiguousarray(pull[rows][:, order]), factor)
        usable = np.isfinite(moved).all(axis=1, keepdims=True)
        np.copyto(target[rows], moved, where=usable)

    each(correct)
    return target


def row_losses(
    draft: Draft, weight: Float32Array, asymmetry: Float32Array | None, moments: Moments, each: EachChunk
) -> Float64Array:
    """`E‖w x − ŵ x̃‖²` of every row [N] on the calibration data, in parts of the mean of diag H, less a constant.

    Where all rows share one grid, each has the loss of all.
    """
    losses = np.empty(weight.shape[0], np.float64)
    added = moments.hessian.diagonal() - moments.importance

    def add(rows: slice) -> None:
        error = draft.rows(rows).dequantized() - weight[rows]
        slope: Float32Array = np.matmul(error, moments.hessian)
        slope -= error * added
        if asymmetry is not None:
            slope -= asymmetry[rows]
            slope -= asymmetry[rows]
        losses[rows] = dot_rows(error, slope)

    each(add)
    return np.full_like(losses, losses.sum()) if draft.scheme.block_size == "tensor" else losses


def on_fitted_grid(weight: Float32Array, importance: Float32Array, scheme: Scheme, scale_type: ScaleType) -> Draft:
    """Every weight at the nearest point of its block's fitted grid."""
    scale, zero_point = fitted_grid(weight, importance, scheme, scale_type)
    block_size = scheme.columns_per_block(weight.shape[1])
    if scheme.dual_grained:
        return _on_dual_grid(weight, fitted_dual_grid(weight, importance, scale, zero_point, block_size), scheme)
    codes = np.empty(weight.shape, np.uint8)
    draft = Draft(weight, codes, scale, zero_point, scheme, scale_type)
    draft.hold_pairs()
    codes[:] = encode(weight, draft.scale, zero_point, scheme.bits, block_size)
    return draft


def on_dual_grid(draft: Draft, importance: Float32Array) -> Draft:
    """Every weight at the nearest point of the dual grid nearest to a draft's own grids."""
    grid = fitted_dual_grid(draft.target, importance, draft.scale, draft.zero_point, draft.block_size)
    return _on_dual_grid(draft.target, grid, draft.scheme)


def _on_dual_grid(weight: Float32Array, grid: DualGrid, scheme: Scheme) -> Draft:
    codes = dual_codes(weight, grid, scheme.columns_per_block(weight.shape[1]))
    return Draft(weight, codes, grid.scale, grid.zero_point, scheme, "float32", grid.row_scale)


def take_better_rows(draft: Draft, rival: Draft, losses: Float64Array, others: Float64Array) -> Float64Array:
    """Take over the rows for which the rival's loss is smaller; return what losses are left."""
    worse = ~(losses <= others)  # also where they are no numbers at all
    draft.take(worse, rival)
    return np.where(worse, others, losses)
