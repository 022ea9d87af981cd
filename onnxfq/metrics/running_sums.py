"""Running sums from which the errors of outputs follow, in float64 and safe against cancellation."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Array, Float64Array
from onnxfq.metrics.distributions import BLOCK, divergence, log_softmax

BoolArray = npt.NDArray[np.bool_]


@dataclass
class Spread:
    """Σ(y₀−mean y₀)², the mean per feature, in one pass.

    Values are taken relative to the first row seen, so that identical rows give exactly 0.

    Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979),
    with a count per feature, since elements that are not finite are left out.
    """

    shift: Float64Array = field(default_factory=lambda: np.zeros(0))
    count: Float64Array = field(default_factory=lambda: np.zeros(0))
    mean: Float64Array = field(default_factory=lambda: np.zeros(0))
    squares: Float64Array = field(default_factory=lambda: np.zeros(0))
    widths_differ: bool = False

    def add(self, values: Float64Array, valid: BoolArray) -> None:
        """Add rows [rows, features]; `valid` says which elements count."""
        if not self.shift.size:
            self._start(np.where(valid[0], values[0], 0.0))
        elif len(self.shift) != values.shape[1]:
            self._collapse()
        if self.widths_differ:
            values, valid = values.reshape(-1, 1), valid.reshape(-1, 1)
        values = np.where(valid, values - self.shift, 0.0)
        count = valid.sum(axis=0, dtype=np.float64)
        mean = values.sum(axis=0) / np.maximum(count, 1.0)
        squares = (np.where(valid, values - mean, 0.0) ** 2).sum(axis=0)
        self._merge(count, mean, squares)

    def total(self) -> float:
        """About the mean of each feature, or about the mean of all elements where every row is the same."""
        per_feature = float(self.squares.sum())
        return self._about_all()[2] if per_feature == 0.0 else per_feature

    def _start(self, shift: Float64Array) -> None:
        self.shift = shift
        self.count, self.mean, self.squares = (np.zeros(len(shift)) for _ in range(3))

    def _merge(self, count: Float64Array, mean: Float64Array, squares: Float64Array) -> None:
        total = np.maximum(self.count + count, 1.0)
        difference = mean - self.mean
        self.squares += squares + difference**2 * (self.count * count / total)
        self.mean += difference * (count / total)
        self.count += count

    def _about_all(self) -> tuple[float, float, float]:
        """Count, mean relative to the first feature's shift, and squares about the mean of all elements."""
        if not self.shift.size:
            return 0.0, 0.0, 0.0
        means = self.mean + (self.shift - self.shift[0])
        count = float(self.count.sum())
        mean = float((self.count * means).sum()) / max(count, 1.0)
        with np.errstate(over="ignore"):
            return count, mean, float(self.squares.sum() + (self.count * (means - mean) ** 2).sum())

    def _collapse(self) -> None:
        """Go on with one feature, from the moment that rows come in different widths."""
        if not self.widths_differ:
            count, mean, squares = self._about_all()
            self.shift = self.shift[:1]
            self.count, self.mean, self.squares = np.array([count]), np.array([mean]), np.array([squares])
            self.widths_differ = True


@dataclass
class FloatSums:
    """Errors of a floating-point output.

    Attributes:
        logits: whether rows are logits, to be compared as distributions.
        elements: elements seen.
        nonfinite: NaN or infinite in one model and different in the other.
        shared_nonfinite: NaN in both, or the same infinity.
        squared: Σ(y−y₀)² over finite elements.
        max_abs: largest |y−y₀| of finite elements.
        spread: Σ(y₀−mean y₀)².
        rows: rows of at least two elements, one of them finite, for the mean of the cosines.
        cosines: sum over those rows.
        distributions: rows compared as distributions.
        divergence: sum of KL(reference ‖ candidate) over those.
        same_top: those whose largest element is the same.
    """

    logits: bool
    elements: int = 0
    nonfinite: int = 0
    shared_nonfinite: int = 0
    squared: float = 0.0
    max_abs: float = 0.0
    spread: Spread = field(default_factory=Spread)
    rows: int = 0
    cosines: float = 0.0
    distributions: int = 0
    divergence: float = 0.0
    same_top: int = 0

    def add(self, expected: Array, got: Array) -> None:
        """Add one output [..., features] of the reference and the candidate's, of equal shapes."""
        width = expected.shape[-1] if expected.ndim > 1 else 1
        if expected.size == 0:
            return
        old, new = expected.reshape(-1, width), got.reshape(-1, width)
        step = max(1, BLOCK // width)
        for start in range(0, len(old), step):
            rows = slice(start, start + step)
            with np.errstate(over="ignore", invalid="ignore"):
                self._add_block(old[rows].astype(np.float64), new[rows].astype(np.float64))

    def _add_block(self, old: Float64Array, new: Float64Array) -> None:
        finite = np.isfinite(old) & np.isfinite(new)
        shared = ~finite & ((old == new) | (np.isnan(old) & np.isnan(new)))
        self.elements += old.size
        self.shared_nonfinite += int(shared.sum())
        self.nonfinite += int(old.size - finite.sum() - shared.sum())
        self.spread.add(old, finite)
        if self.logits and old.shape[1] > 1:
            usable = (finite | (shared & (old == -np.inf))).all(axis=1) & finite.any(axis=1)
            self._add_distributions(old[usable], new[usable])
        old, new = np.where(finite, old, 0.0), np.where(finite, new, 0.0)
        difference = np.abs(new - old)
        self.squared += float((difference**2).sum())
        self.max_abs = max(self.max_abs, float(difference.max()))
        if old.shape[1] > 1:
            seen = finite.any(axis=1)
            self.rows += int(seen.sum())
            self.cosines += float(_cosines(old[seen], new[seen]).sum())

    def _add_distributions(self, old: Float64Array, new: Float64Array) -> None:
        self.distributions += len(old)
        self.divergence += float(divergence(log_softmax(old), log_softmax(new)).sum())
        self.same_top += int((old.argmax(axis=1) == new.argmax(axis=1)).sum())


@dataclass
class EqualSums:
    """Agreement of an output that is not floating-point."""

    elements: int = 0
    equal: int = 0

    def add(self, expected: Array, got: Array) -> None:
        """Add one output of the reference and the candidate's, of equal shapes."""
        self.elements += expected.size
        self.equal += int(np.sum(expected == got))


def _cosines(old: Float64Array, new: Float64Array) -> Float64Array:
    """Of each pair of rows; two rows of zeros point the same way, one row of zeros points nowhere."""
    lengths = np.linalg.norm(old, axis=1) * np.linalg.norm(new, axis=1)
    products = (old * new).sum(axis=1)
    both_zero = ~old.any(axis=1) & ~new.any(axis=1)
    cosines = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0.0)
    return np.where(both_zero, 1.0, np.clip(cosines, -1.0, 1.0))
