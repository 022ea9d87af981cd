"""Tokens that no moment is of: what is left open in solving is chosen by the error on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxfq.arrays import Float32Array, Float64Array


@dataclass(frozen=True, slots=True, eq=False)
class HeldTokens:
    """Inputs of one stage for tokens of samples that are held back from its moments.

    Attributes:
        inputs: [tokens, K], `x̃`, in the model whose earlier stages are quantized, rounded as the kernel rounds it.
        float_inputs: [tokens, K], `x`, in the floating-point model.
        drift: [tokens, N], `r − r̃`, the error of the residual that the stage's product is added to; None without one.
    """

    inputs: Float32Array
    float_inputs: Float32Array
    drift: Float32Array | None = None

    def about(self, mean: Float64Array, float_mean: Float64Array, drift_mean: Float64Array | None) -> HeldTokens:
        """The same less what a bias takes up: means over other tokens."""
        moved = None if self.drift is None or drift_mean is None else self.drift - drift_mean.astype(np.float32)
        inputs, floats = self.inputs - mean.astype(np.float32), self.float_inputs - float_mean.astype(np.float32)
        return HeldTokens(inputs, floats, moved)

    def scaled(self, scale: Float64Array) -> HeldTokens:
        """The same for inputs that are divided by a scale [K]."""
        divisor = scale.astype(np.float32)
        return replace(self, inputs=self.inputs / divisor, float_inputs=self.float_inputs / divisor)


def together(parts: Sequence[HeldTokens]) -> HeldTokens | None:
    """All tokens of several samples; None without any."""
    if not parts:
        return None
    drifts = [part.drift for part in parts if part.drift is not None]
    return HeldTokens(
        np.concatenate([part.inputs for part in parts]),
        np.concatenate([part.float_inputs for part in parts]),
        np.concatenate(drifts) if len(drifts) == len(parts) else None,
    )
