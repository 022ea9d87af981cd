"""Which part of a layer's error comes from its kernel rounding activations to int8, and what helps against it.

A few channels that are much larger than the others leave these few steps of int8 each. Calibration sees such channels,
and the setting that leaves activations in floating point makes the error that of the weights alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxfq.arrays import Float64Array
from onnxfq.errors import SchemeError
from onnxfq.int8_rows import round_to_int8
from onnxfq.options import FLOAT
from onnxfq.quantization.assign import Planned
from onnxfq.quantization.solved_weight import SolvedWeight

NOTED_FROM = 0.01  # of what an output varies by; below, it is not worth a setting
_MOST_OUTPUTS = 256  # rows of a weight that are looked at
_LISTED = 3


@dataclass(frozen=True, slots=True)
class Rounding:
    """Errors of a target's output, each relative to the output's variance over tokens.

    Attributes:
        activations: of rounding its inputs.
        weights: of quantizing its weight.
    """

    activations: float
    weights: float

    @property
    def dominates(self) -> bool:
        """Whether the inputs' rounding is most of an error that matters."""
        return self.activations > max(self.weights, NOTED_FROM)


def measure_rounding(planned: Planned, solved: SolvedWeight, inputs: Float64Array) -> Rounding | None:
    """Both errors on some tokens [tokens, K]; None where the kernel does not round, or the tokens tell nothing."""
    block = planned.rule.rounded_block(planned.kernel, planned.target.k)
    if block is None or len(inputs) < 2 or not np.isfinite(inputs).all():
        return None
    rows = slice(0, min(planned.target.n, _MOST_OUTPUTS))
    matrix = planned.target.matrix
    weight = matrix.rows(matrix.read(), rows).astype(np.float64)
    stored = next(iter(solved.parts))
    q = planned.storage.unpack(stored, planned.kernel, planned.target.k).dequantize()[rows].astype(np.float64)
    scale = np.ones(planned.target.k) if solved.input_scale is None else solved.input_scale
    weight, x = weight[: len(q)], inputs / scale
    output = inputs @ weight.T
    variance = float(output.var(axis=0).sum())
    if not variance > 0 or not np.isfinite(variance):
        return None
    centred = solved.shift is not None
    of_inputs = (x - round_to_int8(x, block)) @ q.T
    of_weights = x @ q.T - output
    return Rounding(
        _mean_square(of_inputs, centred=centred) / variance, _mean_square(of_weights, centred=centred) / variance
    )


def rounding_note(planned: Mapping[int, Planned], found: Mapping[int, Rounding]) -> str:
    """What to do about targets most of whose error is their inputs' rounding; "" where there are none."""
    worst = sorted((i for i in found if found[i].dominates), key=lambda i: -found[i].activations)
    if not worst:
        return ""
    told = [
        f"'{planned[i].target.name}' ({found[i].activations:.1%} of what its output varies by, {found[i].weights:.1%} "
        f"from its weight): {_remedy(planned[i])}"
        for i in worst[:_LISTED]
    ]
    more = f"; and {len(worst) - _LISTED} more" if len(worst) > _LISTED else ""
    layers = "a layer" if len(worst) == 1 else f"{len(worst)} layers"
    return (
        f"Rounding activations to int8 makes most of the error of {layers}: a few channels are much larger than the "
        f"others. Left in floating point they add none: {'; '.join(told)}{more}."
    )


def _remedy(planned: Planned) -> str:
    """The setting that leaves a target's activations in float, with a kernel that is not known to be slow."""
    name = planned.target.name
    pattern = name if _matches_itself(name) else re.escape(name)
    for changes in ({"activations": FLOAT}, {"bits": 4, "activations": FLOAT}):
        try:
            kernel = planned.rule.kernel(planned.kernel.provider, planned.scheme.changed(changes), planned.target)
        except SchemeError:
            continue
        if kernel.speed != "slow":
            return f"`schemes={pattern}={','.join(f'{key}:{value}' for key, value in changes.items())}`"
    return f"`exclude={pattern}`"


def _matches_itself(name: str) -> bool:
    try:
        return re.search(name, name) is not None
    except re.error:
        return False


def _mean_square(error: Float64Array, *, centred: bool) -> float:
    """Per token, summed over outputs; about the mean where a bias takes that up."""
    return float((error.var(axis=0) if centred else np.square(error).mean(axis=0)).sum())
