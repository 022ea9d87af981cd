"""`format="auto"`: for each weight the fastest format that loses little more than the usual one, or float."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxfq.arrays import Float32Array, Float64Array
from onnxfq.int8_rows import round_to_int8
from onnxfq.rules import PRODUCT_RULES, Target
from onnxfq.scheme import Scheme
from onnxfq.solvers.rtn import Rtn
from onnxfq.weight_formats import FORMATS

NEVER_SLOWER = 1.0  # times as fast as float, below which a format is no candidate
AS_FAST = 0.98  # of the fastest: among formats that are so fast, the one with the smallest error is taken
MOST_ERROR = 2.0  # times the relative error of the usual scheme
ROWS = 64  # of a weight, from which its errors are told

SpeedOf = Callable[[Scheme, Target], float | None]
"""How many times as fast as in float a product is; None where nobody knows."""
Fits = Callable[[Scheme, Target], bool]
"""Whether a product can be written in a format at all."""
ErrorOf = Callable[[Scheme, Target], float]
"""Relative error of a product in a format: of its weight, or, with data, of its output."""


@dataclass(frozen=True, slots=True)
class ChosenFormat:
    """What became of a weight.

    Attributes:
        scheme: None where it stays in float.
        times_faster: than in float; of the best format where none is fast enough; None where nothing is known.
        reason: for which it stays in float.
    """

    scheme: Scheme | None
    times_faster: float | None
    reason: str = ""


def choose_format(
    target: Target, usual: Scheme, candidates: Sequence[Scheme], speed_of: SpeedOf, error_of: ErrorOf
) -> ChosenFormat:
    """Choose a format for a weight: never one that is slower than float.

    Args:
        target: the weight and its node.
        usual: what it would get without a choice; its error is the measure.
        candidates: what it may get.
        speed_of: of a format.
        error_of: of a format.
    """
    known = {scheme: times for scheme in candidates if (times := speed_of(scheme, target)) is not None}
    if not known:
        return ChosenFormat(None, None, "no table says how fast a weight of this size is")
    best = max(known, key=lambda scheme: known[scheme])
    fast = {scheme: times for scheme, times in known.items() if times >= NEVER_SLOWER}
    if not fast:
        told = f"no format is faster than float here; the best, {best}, runs at {known[best]:.2f}x"
        return ChosenFormat(None, known[best], told)
    errors = {scheme: error_of(scheme, target) for scheme in fast}
    limit = MOST_ERROR * max(error_of(usual, target), min(errors.values()))
    close = {scheme: times for scheme, times in fast.items() if errors[scheme] <= limit}
    near = [scheme for scheme, times in close.items() if times >= AS_FAST * max(close.values())]
    chosen = min(near, key=lambda scheme: errors[scheme])
    return ChosenFormat(chosen, close[chosen])


def candidates_for(usual: Scheme, formats: Sequence[str]) -> tuple[Scheme, ...]:
    """Formats to choose among: 4 bits in all usual blocks, with and without zero points, 8 bits, and other formats.

    Args:
        usual: the scheme that was asked for; one without zero points stays so.
        formats: those that run where the file is made for.
    """
    forms = (True,) if usual.symmetric else (False, True)
    found: list[Scheme] = [usual]
    if "matmulnbits" in formats:
        found += [Scheme(4, size, form, usual.activations) for size in (32, 64, 128) for form in forms]
        found += [Scheme(8, size, form, usual.activations) for size in (32, 128) for form in forms]
    found += [
        Scheme(format=name)
        for name, known in FORMATS.items()
        if known.proposed and name in formats and known.activations == usual.activations
    ]
    return tuple(dict.fromkeys(found))


class FormatErrors:
    """Errors of formats, of weights rounded to nearest.

    Args:
        inputs: samples [rows, K] of what products read, by `Target.source`; without them, all inputs count alike, or as
            `mean_square` says.
        mean_square: E[x²] of each input of a target; None where nothing tells.
    """

    def __init__(
        self, inputs: Mapping[str, Float32Array], mean_square: Callable[[Target], Float64Array | None]
    ) -> None:
        self._inputs, self._mean_square = inputs, mean_square
        self._last: tuple[object, Float32Array] | None = None  # rows of a weight, for its next format

    def error(self, scheme: Scheme, target: Target) -> float:
        """Σ(y−ŷ)² / Σy² over the samples, of some rows of the weight; without samples, what is expected of it."""
        weight = self._rows(target)
        difference = Rtn().solve(weight, scheme, None, scale_type=target.scale_type).dequantize() - weight
        inputs = self._inputs.get(target.source)
        if inputs is None or inputs.shape[1] != target.k:
            expected = self._mean_square(target)
            scales = np.ones(target.k) if expected is None else expected
            return _ratio(np.square(difference) * scales, np.square(weight) * scales)
        by_row = PRODUCT_RULES[scheme.format].rounds_rows
        columns = target.k if by_row else min(scheme.columns_per_block(target.k), target.k)
        rounded = inputs if scheme.activations == "float" else round_to_int8(inputs, columns)
        exact = inputs @ weight.T
        return _ratio(np.square(rounded @ (weight + difference).T - exact), np.square(exact))

    def _rows(self, target: Target) -> Float32Array:
        if self._last is None or self._last[0] != target.key:
            matrix = target.matrix
            weight = matrix.rows(matrix.read(), slice(0, target.n))
            self._last = target.key, np.ascontiguousarray(weight[:: max(1, target.n // ROWS)][:ROWS])
        return self._last[1]


@dataclass(frozen=True, slots=True)
class AutoFormat:
    """Chooses formats for the weights of a model, each once: what was chosen stays chosen.

    Attributes:
        formats: that run where the file is made for.
        fits: whether a product can have a format.
        speed_of: of a format.
        error_of: of a format.
        choices: made, by the node's name and the weight's slot.
    """

    formats: Sequence[str]
    fits: Fits
    speed_of: SpeedOf
    error_of: ErrorOf
    choices: dict[tuple[str, int], ChosenFormat] = field(default_factory=dict)

    def choose(self, target: Target, usual: Scheme) -> ChosenFormat:
        """What becomes of a weight that would get the usual scheme."""
        key = target.name, target.slot
        if key not in self.choices:
            candidates = [scheme for scheme in candidates_for(usual, self.formats) if self.fits(scheme, target)]
            self.choices[key] = choose_format(target, usual, candidates, self.speed_of, self.error_of)
        return self.choices[key]


def _ratio(errors: Float32Array | Float64Array, squares: Float32Array | Float64Array) -> float:
    total = float(np.sum(squares, dtype=np.float64))
    return float(np.sum(errors, dtype=np.float64)) / total if total > 0 else 0.0
