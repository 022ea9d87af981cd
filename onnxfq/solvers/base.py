"""What every algorithm is: a weight, a scheme and statistics in; codes, scales and zero points out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from onnxfq.arrays import Float32Array, Float64Array
from onnxfq.errors import UsageError
from onnxfq.quantized import QuantizedWeight, WeightRange
from onnxfq.scheme import ScaleType, Scheme
from onnxfq.solvers.draft import on_fitted_grid
from onnxfq.solvers.dual_grid import dual_grained
from onnxfq.solvers.pairs import with_fitting_pairs
from onnxfq.statistics import Statistics

USUAL_TOKENS = 1 << 13  # of calibration, where nobody has counted them


class Solver(ABC):
    """An algorithm: a subclass says what it is by class attributes and fills in `_solve`; its fields are its options.

    Attributes:
        name: what the user names it by.
        weights_per_second: on two cores of a 2023 server, for estimates.
        calibrated: whether it minimizes `E‖W x − Ŵ x̃‖²` over calibration data, and so needs `Statistics.gram`.
        weighs_inputs: whether it can use `Statistics.mean_square` alone, which some graphs tell without data.
        scales_inputs: whether it has an `input_scale`; else nobody reads a stage's weights to ask for one.
    """

    name: ClassVar[str]
    weights_per_second: ClassVar[float]
    calibrated: ClassVar[bool] = False
    weighs_inputs: ClassVar[bool] = False
    scales_inputs: ClassVar[bool] = False

    @property
    def moves_bias(self) -> bool:
        """Whether a bias behind the weight is to take up the mean error, and what remains about it is minimized."""
        return False

    @property
    def tunes(self) -> bool:
        """Whether `tuned` has anything to choose, for which some samples are held back."""
        return False

    def work(self, scheme: Scheme, n: int, k: int, tokens: int = USUAL_TOKENS) -> float:
        """How many times as long a weight [N, K] takes as `weights_per_second` says, for estimates.

        Args:
            scheme: of the weight.
            n: rows.
            k: columns.
            tokens: that calibrate.
        """
        return 1.0

    def solve(
        self, weight: Float32Array, scheme: Scheme, statistics: Statistics | None, *, scale_type: ScaleType
    ) -> QuantizedWeight:
        """Quantize one weight; with a calibrated solver, one that no input reaches takes the codes of its fitted grid.

        Args:
            weight: [N, K] float32, finite. Not modified.
            scheme: bits, granularity and symmetry.
            statistics: of the inputs; None where there are none.
            scale_type: the type scales will be stored in; returned scales are representable in it.

        Raises:
            ValueError: a calibrated solver has no `Statistics.gram`.
        """
        weight, known = np.ascontiguousarray(weight, np.float32), statistics or Statistics(tokens=0)
        if self.calibrated and known.gram is None:
            raise ValueError(f"{self.name} needs Statistics.gram")
        if self.calibrated and known.gram is not None and not known.gram.diagonal().any():  # any codes will do
            return on_fitted_grid(weight, np.ones(weight.shape[1], np.float32), scheme, scale_type).finished(())
        q = self._solve(weight, scheme, known, scale_type)
        if scheme.fits_pairs:
            return with_fitting_pairs(weight, q, importance_of(known, weight.shape[1]))
        if not scheme.dual_grained or q.row_scale is not None:
            return q
        return dual_grained(weight, q, importance_of(known, weight.shape[1]))

    def tuned(self, weights: Sequence[Float32Array], statistics: Statistics) -> Solver:
        """The same algorithm with what its options leave open chosen by the error on held-back tokens.

        Asked once for a stage, wherever its weights are solved and in whichever schemes.

        Args:
            weights: [rows, K] each, some rows of each of the stage's weights; those of the weight whose product is
                added to a residual come first, and `Statistics.drift` is of these rows.
            statistics: of the inputs; without `held`, what is open stays so.
        """
        return self

    @abstractmethod
    def _solve(
        self, weight: Float32Array, scheme: Scheme, statistics: Statistics, scale_type: ScaleType
    ) -> QuantizedWeight:
        """`solve`: the weight is contiguous, statistics may be empty but for what the solver needs.

        What is not on a dual grid where the scheme's format has these is put there afterwards (`dual_grained`), and
        neighbours that are too large together are made smaller (`with_fitting_pairs`).
        """

    def takes_columns(self, scheme: Scheme, scale_type: ScaleType) -> bool:
        """Whether `solve_columns` gives, without data, what `solve` gives: for weights that are stored [K, N]."""
        return False

    def solve_columns(
        self, stored: Float32Array, columns: slice, scheme: Scheme
    ) -> tuple[QuantizedWeight, float, WeightRange]:
        """Some columns of a weight stored [K, N], C-contiguous: quantized, with Σ (w − ŵ)² and the weights' range."""
        raise NotImplementedError(f"{self.name} solves rows only")

    def input_scale(
        self, weights: Sequence[Float32Array], scheme: Scheme, statistics: Statistics, *, scale_type: ScaleType
    ) -> Float64Array | None:
        """What to divide a stage's inputs by, [K], all positive; its weights are multiplied by it before `solve`.

        Asked only where the graph can scale the inputs at no cost.

        Args:
            weights: [N, K] each, all that read the inputs.
            scheme: bits, granularity and symmetry.
            statistics: of the inputs.
            scale_type: the type scales will be stored in.

        Returns:
            None where nothing is better than leaving them as they are.
        """
        return None

    def _check(self, field: str, value: object, fits: bool, wanted: str) -> None:
        """Refuse the value of an option.

        Raises:
            UsageError: it does not fit.
        """
        if not fits:
            raise UsageError(f"The option {field} of {self.name} does not fit (got {field}={value}). Use {wanted}.")

    def _check_number(self, field: str, value: float | None, least: float, most: float, wanted: str) -> None:
        """Refuse a number outside of a range; None is no number and passes."""
        self._check(field, value, value is None or (least <= value <= most and math.isfinite(value)), wanted)


def importance_of(statistics: Statistics, k: int) -> Float32Array:
    """How much a squared error in each column counts, [K]: as the mean square of the input it meets, if known."""
    if statistics.mean_square is None:
        return np.ones(k, np.float32)
    return np.ascontiguousarray(statistics.mean_square, np.float32)
