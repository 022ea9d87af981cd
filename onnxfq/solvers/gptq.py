"""Calibrated quantization: GPTQ on a weighted grid, for a target that undoes earlier errors, then refined."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from onnxfq.arrays import Float32Array
from onnxfq.quantized import QuantizedWeight
from onnxfq.scheme import ScaleType, Scheme
from onnxfq.solvers.base import USUAL_TOKENS, Solver
from onnxfq.solvers.curvature import curvature
from onnxfq.solvers.draft import asymmetric_term, compensate
from onnxfq.solvers.held_choice import USUAL, choose_target
from onnxfq.solvers.recoding import recode_parts
from onnxfq.solvers.rivals import keep_best_rows
from onnxfq.solvers.rows import row_threads
from onnxfq.solvers.towards import solve_towards
from onnxfq.statistics import Statistics

_LOGGER = logging.getLogger(__name__)

FEW_BITS, USUAL_BITS = 2, 4  # with few, descent ends far above what there is
PARTS = 24  # of the columns, at most, that are given codes anew
PER_TOKEN = 1 << 18  # multiplications with the moments that a weight of usual bits is worth, for each token they are of


@dataclass(frozen=True, slots=True)
class Gptq(Solver):
    """Minimises `E‖W x − Ŵ x̃‖²`, `x` the inputs in the original model and `x̃` in the one quantized so far.

    The weight is first moved to the real-valued minimum; grids are fitted to that, weighted by the size of the inputs;
    columns are coded in order of that size, each making up for the errors of those before; then codes and grids are
    improved in turn, each given everything else. A row for which `Hqq`, weighted or not, does better on the
    calibration data takes over its codes (see `keep_best_rows`).

    Dampings are in parts of the mean of the diagonal of `H`, the mean `x̃ x̃ᵀ`.

    Attributes:
        damping: λ of GPTQ's factor; None: that of the target.
        refit_damping: λ of refits and of descent.
        alpha: how much of the error of its inputs a weight makes up for, 0 to 1; this and the next two are, where they
            are None, chosen for each stage by the error on tokens that no moment is of.
        residual: how much of the error of the residual that its product is added to, 0 to 1.
        target_damping: λ of both.
        act_order: code the columns with the largest inputs first; else in their own order.
        refine: how many times codes and grids are improved.
        recode: how often a part of the columns is given codes anew while the others stay, each row keeping what is
            better; None: 24 with 2 bits, where that takes an eighth of the error; with 4 bits as often as 2^18
            multiplications of the weight with its moments for each token allow, up to 24 (with 8192 tokens 2 for
            384 x 1536, 0 for 2048 x 2048); else 0. None without `refine`.
        column_batch: columns between two matrix products; for speed only.
        bias: let a bias behind the weight take up the mean error, and minimise what remains about it.

    Raises:
        UsageError: a value that makes no sense.
    """

    damping: float | None = None
    refit_damping: float = 0.1
    alpha: float | None = None
    residual: float | None = None
    target_damping: float | None = None
    act_order: bool = True
    refine: int = 2
    recode: int | None = None
    column_batch: int = 128
    bias: bool = True

    name: ClassVar[str] = "gptq"
    calibrated: ClassVar[bool] = True
    weights_per_second: ClassVar[float] = 5e6

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        for field in ("damping", "refit_damping", "target_damping"):
            self._check_number(field, getattr(self, field), 0, math.inf, "a number from 0 up, such as 0.05")
        for field in ("alpha", "residual"):
            self._check_number(field, getattr(self, field), 0, 1, "a number from 0 to 1")
        self._check_number("refine", self.refine, 0, 1000, "a whole number from 0 to 1000")
        self._check_number("recode", self.recode, 0, 1000, "a whole number from 0 to 1000")
        self._check_number("column_batch", self.column_batch, 1, math.inf, "a whole number from 1 up, such as 128")

    @property
    def moves_bias(self) -> bool:
        """As the option `bias` says."""
        return self.bias

    @property
    def tunes(self) -> bool:
        """Unless all three settings are given."""
        return None in (self.alpha, self.residual, self.target_damping)

    def work(self, scheme: Scheme, n: int, k: int, tokens: int = USUAL_TOKENS) -> float:
        """Four parts of the columns take as long as everything else."""
        return 1 + self._recode(scheme, n, k, tokens) / 4

    def tuned(self, weights: Sequence[Float32Array], statistics: Statistics) -> Gptq:
        """With `alpha`, `residual` and `target_damping` chosen; see `Solver.tuned`."""
        given = {"alpha": self.alpha, "residual": self.residual, "damping": self.target_damping}
        found = choose_target(np.concatenate(weights), statistics, **given)
        if found is None:
            return self
        _LOGGER.debug("chosen on held-back tokens: %s", found)
        return replace(self, alpha=found.alpha, residual=found.residual, target_damping=found.damping)

    def _solve(
        self, weight: Float32Array, scheme: Scheme, statistics: Statistics, scale_type: ScaleType
    ) -> QuantizedWeight:
        target_damping = USUAL.damping if self.target_damping is None else self.target_damping
        alpha = USUAL.alpha if self.alpha is None else self.alpha
        residual = USUAL.residual if self.residual is None else self.residual
        damping = target_damping if self.damping is None else self.damping
        with row_threads(weight.shape[0]) as each:
            known = curvature(statistics, damping, self.refit_damping, target_damping, self.act_order)
            pull = asymmetric_term(weight, known, each, alpha=alpha, drift=statistics.drift, share=residual)
            target = compensate(weight, pull, known, each)
            draft = solve_towards(
                target,
                known,
                scheme,
                scale_type,
                self.refine,
                each,
                column_batch=self.column_batch,
            )
            times = self._recode(scheme, len(weight), weight.shape[1], statistics.tokens)
            recode_parts(draft, known, times, self.column_batch, each)
            keep_best_rows(draft, weight, pull, known, each)
        return draft.finished(known.remarks)

    def _recode(self, scheme: Scheme, n: int, k: int, tokens: int) -> int:
        if self.recode is not None or not self.refine:
            return self.recode or 0
        if scheme.bits <= FEW_BITS:
            return PARTS
        return min(PARTS, PER_TOKEN * tokens // (n * k * k)) if scheme.bits <= USUAL_BITS else 0
