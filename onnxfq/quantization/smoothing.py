"""What to divide a stage's inputs by, and multiply its weights by, before both are rounded to int8.

A row of activations has one scale, that of its largest channel: a few channels that are much larger than the others
leave these few steps. Divided by a scale they leave more, at the price of larger weights. How far to go is chosen by
what both roundings cost in the stage's output, over candidates s = a^p / w^q, a the largest magnitude of each channel
and w the norm of its weights. Exponents are judged on one half of the inputs with the magnitudes of the other: a few
tokens know no channel's largest, and what was divided by too little leaves all others of its row no steps.

Source: G. Xiao et al., "SmoothQuant", 2023, whose exponent is fixed. Differs: chosen for each stage, and left alone
where it does not pay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from onnxfq.arrays import Float32Array, Float64Array
from onnxfq.int8_rows import TOP
from onnxfq.scheme import Scheme
from onnxfq.statistics import Statistics

_POWERS = (0.0, 0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_WEIGHT_POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)
_PAYS_FROM = 2e-4  # of what the output varies by: what one more node must save
_LEFT_BY_SOLVER = 0.5  # of the weights' rounding, after errors have made up for each other
_SMALLEST = 1e-6  # of the largest norm
_LEAST = 0.01  # of the usual channel: smaller ones are not stretched further


@dataclass(frozen=True, slots=True, eq=False)
class Smoothing:
    """A scale for a stage's inputs.

    Attributes:
        scale: [K], all positive.
        gain: what it saves, as a part of what the stage's output varies by.
    """

    scale: Float64Array
    gain: float

    @property
    def pays(self) -> bool:
        """Whether it is worth a node of its own."""
        return self.gain > _PAYS_FROM


def find_smoothing(weights: Sequence[Float32Array], inputs: Float64Array, scheme: Scheme) -> Smoothing | None:
    """The best scale for a stage's inputs; None where none is better than leaving them as they are.

    Args:
        weights: [N, K] each, all that read the inputs.
        inputs: [tokens, K], some of them.
        scheme: what the weights are quantized to.
    """
    weight = np.concatenate(weights)
    norms = np.sqrt(np.square(weight, dtype=np.float64).sum(axis=0))
    norms = np.maximum(norms, _SMALLEST * norms.max())
    variance = float((inputs.astype(np.float32) @ weight.T).var(axis=0).sum()) if len(inputs) > 1 else 0.0
    if not variance > 0 or not np.isfinite(variance) or not inputs.any():
        return None
    halves = [half for half in np.array_split(inputs, 2) if half.any()]
    pairs = [(_largest(fitted), _Seen.of(judged, norms**2, np.abs(weight), scheme))
             for fitted, judged in zip(halves, reversed(halves), strict=True)]  # fmt: skip
    least = usual = sum(seen.loss(np.ones_like(norms)) for _, seen in pairs)
    best = None
    for powers in product(_POWERS[1:], _WEIGHT_POWERS):
        loss = sum(seen.loss(_scale(largest, norms, *powers)) for largest, seen in pairs)
        if loss < least:
            best, least = powers, loss
    if best is None:
        return None
    return Smoothing(_scale(_largest(inputs), norms, *best), (usual - least) / len(pairs) / variance)


def _largest(inputs: Float64Array) -> Float64Array:
    """The largest magnitude of each channel; of those of which little was seen, what is usual."""
    largest = np.abs(inputs).max(axis=0)
    usual = float(np.median(largest[largest > 0]))
    return np.asarray(np.maximum(np.where(largest > 0, largest, usual), _LEAST * usual), np.float64)


def _scale(largest: Float64Array, norms: Float64Array, power: float, weight_power: float) -> Float64Array:
    scale = largest**power / norms**weight_power
    return np.asarray(scale / np.exp(np.log(scale).mean()))


def with_rounding(statistics: Statistics, inputs: Float64Array, scale: Float64Array | None) -> Statistics:
    """The same for inputs that are rounded to int8 with one scale a row, after they were divided by `scale` [K].

    Args:
        statistics: of the inputs as they are.
        inputs: [tokens, K], some of them.
        scale: None divides by nothing.
    """
    if statistics.gram is None or not len(inputs):
        return statistics
    divisor = np.ones(inputs.shape[1]) if scale is None else scale
    noise = divisor**2 * np.square(np.abs(inputs / divisor).max(axis=1)).mean() / (12 * TOP**2)

    def louder(gram: Float64Array | None) -> Float64Array | None:
        return None if gram is None else gram + np.diag(noise)

    cross = statistics.gram if statistics.cross is None else statistics.cross
    centred_cross = statistics.centred_gram if statistics.centred_cross is None else statistics.centred_cross
    return replace(
        statistics,
        gram=louder(statistics.gram),
        cross=cross,
        centred_gram=louder(statistics.centred_gram),
        centred_cross=centred_cross,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What the roundings' cost follows from.

    Attributes:
        inputs: [tokens, K].
        mean_square: [K], of the inputs.
        energy: [K], Σ over outputs of the squared weights.
        weight: [N, K], magnitudes.
        scheme: what the weights are quantized to.
    """

    inputs: Float32Array
    mean_square: Float64Array
    energy: Float64Array
    weight: Float32Array
    scheme: Scheme

    @classmethod
    def of(cls, inputs: Float64Array, energy: Float64Array, weight: Float32Array, scheme: Scheme) -> _Seen:
        """From inputs as they are."""
        return cls(inputs.astype(np.float32), np.square(inputs).mean(axis=0), energy, weight, scheme)

    def loss(self, scale: Float64Array) -> float:
        """What rounding both costs in the output, summed over outputs."""
        rows = np.abs(self.inputs / scale.astype(np.float32)).max(axis=1)
        of_inputs = float(np.square(rows, dtype=np.float64).mean()) / TOP**2 * float((scale**2 * self.energy).sum())
        return (of_inputs + _LEFT_BY_SOLVER * self._of_weights(scale)) / 12

    def _of_weights(self, scale: Float64Array) -> float:
        """Of the weights' rounding: a step for each block, which errors in all of its columns are as large as."""
        k = len(scale)
        block = self.scheme.columns_per_block(k)
        starts = np.arange(0, k, block)
        steps = np.maximum.reduceat(self.weight * scale.astype(np.float32), starts, axis=1) / (self.scheme.levels / 2)
        counted = np.add.reduceat(self.mean_square / scale**2, starts)
        return float((np.square(steps, dtype=np.float64) * counted).sum())
