"""Calibration statistics for tests of solvers: correlated inputs, and what errors of earlier stages make of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Float32Array
from onnxfq.quantized import QuantizedWeight
from onnxfq.solvers.curvature import Moments
from onnxfq.solvers.draft import Draft
from onnxfq.statistics import Statistics

Float64Array = npt.NDArray[np.float64]


def inputs(tokens: int, k: int, rank: int = 12, seed: int = 0) -> Float64Array:
    """[tokens, K]: a few strong directions, a little of all others, and columns of very different sizes."""
    rng = np.random.default_rng(seed)
    strong = rng.standard_normal((tokens, rank)) @ rng.standard_normal((rank, k))
    size = np.exp(0.7 * rng.standard_normal(k))
    mixed: Float64Array = (strong + 0.5 * rng.standard_normal((tokens, k))) * size
    return mixed


def disturbed(x: Float64Array, share: float = 0.1, seed: int = 1) -> Float64Array:
    """What quantized earlier stages make of inputs: in part a linear change, in part noise."""
    rng = np.random.default_rng(seed)
    k = x.shape[1]
    linear = x @ rng.standard_normal((k, k)) / np.sqrt(k)
    out: Float64Array = x + share * (0.5 * linear + rng.standard_normal(x.shape) * x.std(axis=0))
    return out


def measured(x: Float64Array, quantized: Float64Array | None = None, tokens: int | None = None) -> Statistics:
    """The statistics of inputs; `tokens` pretends that there were more or fewer of them."""
    seen = x if quantized is None else quantized
    cross = None if quantized is None else x.T @ seen / len(x)
    return Statistics(tokens=tokens or len(x), gram=seen.T @ seen / len(x), cross=cross)


def row_losses(weight: Float32Array, q: QuantizedWeight, statistics: Statistics) -> Float64Array:
    """`E‖w x − ŵ x̃‖²` of every row, less what no code changes."""
    assert statistics.gram is not None
    cross = statistics.gram if statistics.cross is None else statistics.cross
    w, coded = weight.astype(np.float64), q.dequantize().astype(np.float64)
    error = coded - w
    drift = w @ (cross - statistics.gram)
    losses: Float64Array = (error * (error @ statistics.gram - 2 * drift)).sum(axis=1)
    return losses


def objective(draft: Draft, moments: Moments) -> Float64Array:
    """What descent makes smaller, of every row [N]: `(ŵ − w*) H (ŵ − w*)ᵀ` with the damped H."""
    error = draft.dequantized().astype(np.float64) - draft.target
    return np.asarray(((error @ moments.hessian.astype(np.float64)) * error).sum(axis=1))
