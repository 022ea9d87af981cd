"""Calibrated quantization without error feedback: scaled inputs, clipped grids, nearest codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from onnxfq.arrays import Float32Array, Float64Array
from onnxfq.quantized import QuantizedWeight
from onnxfq.scheme import ScaleType, Scheme
from onnxfq.solvers.base import Solver
from onnxfq.solvers.clipping import clip
from onnxfq.solvers.curvature import moments
from onnxfq.solvers.draft import Draft, asymmetric_term, on_dual_grid, on_fitted_grid, row_losses
from onnxfq.solvers.gptq import Gptq
from onnxfq.solvers.rivals import keep_best_rows
from onnxfq.solvers.rows import row_threads
from onnxfq.solvers.scaling import best_scale
from onnxfq.statistics import Statistics
from onnxfq.weight_formats import USUAL_FORMAT

_CODES = ("nearest", "gptq")
_LARGEST = 1e36  # weights above might overflow when they are scaled
_STRENGTHS = (1.0, 0.5)  # how much of the scale found is tried, as an exponent
_SMALLEST_GAIN = 0.01  # of the objective; smaller ones on a sample of rows may be losses on all


@dataclass(frozen=True, slots=True)
class Awq(Solver):
    """Activation-aware quantization: minimizes `E‖W x − Ŵ x̃‖²` over scales of inputs and over grids.

    Where a normalization layer comes before a stage, that layer divides the stage's inputs by a scale, and the weights
    are multiplied by it: weights that meet large inputs are rounded more finely. Grids are fitted to the weights,
    weighted by the size of the inputs, and then clipped under the full objective; codes are the nearest. A row for
    which `Hqq`, weighted or not, does better on the calibration data takes over its codes.

    Source: J. Lin et al., "AWQ: Activation-aware Weight Quantization", 2023. Differs: see `best_scale` and `clip`.

    Attributes:
        steps: how many exponents are tried for inputs, and as many for weights; 1: inputs stay as they are.
        rounds: how many times every block is clipped.
        rows: of each weight, by which scales of inputs are judged.
        damping: what clipping adds to the diagonal of the mean `x̃ x̃ᵀ`, in parts of its mean.
        bias: let a bias behind the weight take up the mean error, and minimise what remains about it.
        codes: "nearest", or "gptq" to have `Gptq` choose codes and grids for the scaled weights.

    Raises:
        UsageError: a value that makes no sense.
    """

    steps: int = 5
    rounds: int = 2
    rows: int = 256
    damping: float = 0.1
    bias: bool = True
    codes: str = "nearest"

    name: ClassVar[str] = "awq"
    calibrated: ClassVar[bool] = True
    scales_inputs: ClassVar[bool] = True
    weights_per_second: ClassVar[float] = 2e6

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        self._check("steps", self.steps, 1 <= self.steps <= 100, "a whole number from 1 to 100")
        self._check("rounds", self.rounds, 0 <= self.rounds <= 1000, "a whole number from 0 to 1000")
        self._check("rows", self.rows, self.rows >= 1, "a whole number from 1 up, such as 256")
        self._check("damping", self.damping, 0 <= self.damping < float("inf"), "a number from 0 up, such as 0.1")
        self._check("codes", self.codes, self.codes in _CODES, " or ".join(_CODES))

    @property
    def moves_bias(self) -> bool:
        """As the option `bias` says."""
        return self.bias

    def _solve(
        self, weight: Float32Array, scheme: Scheme, statistics: Statistics, scale_type: ScaleType
    ) -> QuantizedWeight:
        if self.codes == "gptq":
            return Gptq().solve(weight, scheme, statistics, scale_type=scale_type)
        with row_threads(weight.shape[0]) as each:
            known = moments(statistics, self.damping)
            asymmetry = asymmetric_term(weight, known, each)
            plain = replace(scheme, format=USUAL_FORMAT) if scheme.dual_grained else scheme
            draft = on_fitted_grid(weight, known.importance, plain, scale_type)
            clip(draft, asymmetry, known, self.rounds, each)
            if scheme.dual_grained:
                draft = on_dual_grid(replace(draft, scheme=scheme), known.importance)
            keep_best_rows(draft, weight, asymmetry, known, each, every=True)
        return draft.finished(())

    def input_scale(
        self, weights: Sequence[Float32Array], scheme: Scheme, statistics: Statistics, *, scale_type: ScaleType
    ) -> Float64Array | None:
        """What to divide a stage's inputs by; see `Solver.input_scale`.

        Judged by `tr(ΔW H ΔWᵀ)`, `H` the mean `x̃ x̃ᵀ`: what errors of earlier stages are made up for by chance, on a
        sample of rows, would drown the differences.
        """
        if statistics.gram is None or self.steps == 1 or not statistics.gram.diagonal().any():
            return None
        if not max(max(float(weight.max()), -float(weight.min())) for weight in weights) < _LARGEST:
            return None
        samples, statistics = [_sampled(weight, self.rows) for weight in weights], replace(statistics, cross=None)
        assert statistics.gram is not None
        energy = np.maximum(statistics.gram.diagonal() / statistics.gram.diagonal().mean(), 0)
        found = best_scale(samples, energy, scheme, scale_type, self.steps)
        best, least = None, self._loss(samples, scheme, statistics, scale_type)
        for strength in _STRENGTHS:
            scale = found**strength
            scaled = [weight * scale.astype(np.float32) for weight in samples]
            loss = self._loss(scaled, scheme, statistics.scaled(scale), scale_type)
            if loss < (1 - _SMALLEST_GAIN) * least:
                best, least = scale, loss
        return best

    def _loss(
        self, weights: Sequence[Float32Array], scheme: Scheme, statistics: Statistics, scale_type: ScaleType
    ) -> float:
        """What solving weights leaves of the objective."""
        assert statistics.gram is not None
        known, total = moments(statistics, self.damping), 0.0
        for weight in weights:
            q = self.solve(weight, scheme, statistics, scale_type=scale_type)
            draft = Draft(weight, q.codes, q.scale, q.zero_point, scheme, scale_type)
            with row_threads(weight.shape[0]) as each:
                losses = row_losses(draft, weight, None, known, each)
            total += float(losses[0] if scheme.block_size == "tensor" else losses.sum())
        return total * float(statistics.gram.diagonal().mean())


def _sampled(weight: Float32Array, count: int) -> Float32Array:
    """At most so many rows, evenly spread."""
    n = weight.shape[0]
    return np.ascontiguousarray(weight[np.linspace(0, n - 1, min(n, count)).astype(np.intp)])
