"""The search for what to divide a stage's inputs by, so that weights that meet large inputs are rounded more finely."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Float32Array, Float64Array
from onnxfq.scheme import ScaleType, Scheme
from onnxfq.solvers.blocks import squared_errors
from onnxfq.solvers.grid import fitted_grid

_FURTHEST = np.log(64.0)  # from 1, of a channel's scale


def best_scale(
    weights: Sequence[Float32Array], energy: Float64Array, scheme: Scheme, scale_type: ScaleType, steps: int
) -> Float64Array:
    """The scale of every channel, [K], with the least error of outputs as far as channels are independent.

    On the grid of a block, the error of a column with scale `s` counts as `E[x̃²]/s²`, and the grid grows with the
    block's `|W|·s`. So `s = E[x̃²]^(a/2) / |W|^b` is tried for all pairs of exponents; were grids as wide as the root
    mean square of a block's weights, a = b = 1/2 would be best. Blocks of columns do not depend on each other: each
    takes the pair that is best for itself, with scales whose geometric mean is 1.

    Source: J. Lin et al., "AWQ: Activation-aware Weight Quantization", 2023, section 3.2. Differs: `|W|` counts too,
    every block has exponents of its own, and candidates are judged by second moments on fitted grids.

    Args:
        weights: [rows, K] each.
        energy: [K], `E[x̃²]`.
        scheme: the blocks and how many codes there are.
        scale_type: what the grids' scales are rounded to.
        steps: how many values of each exponent are tried, from 0 to 1.
    """
    k = energy.size
    block = np.arange(k) // scheme.columns_per_block(k)
    size = np.sqrt(sum((np.square(w, dtype=np.float64).sum(axis=0) for w in weights), np.zeros(k)))
    best, least = np.ones(k), np.full(block[-1] + 1, np.inf)
    for scale in _candidates(_centred_logs(np.sqrt(energy), block), _centred_logs(size, block), steps):
        losses = sum(_block_losses(w, energy, scale, scheme, scale_type) for w in weights)
        better = losses < least
        best, least = np.where(better[block], scale, best), np.where(better, losses, least)
    return best


def _candidates(inputs: Float64Array, weights: Float64Array, steps: int) -> Iterator[Float64Array]:
    """Scales from the logarithms of sizes; the first changes nothing."""
    for a in np.linspace(0, 1, steps):
        for b in np.linspace(0, 1, steps):
            yield np.exp(np.clip(a * inputs - b * weights, -_FURTHEST, _FURTHEST))


def _centred_logs(sizes: Float64Array, block: npt.NDArray[np.intp]) -> Float64Array:
    """Logarithms of sizes less their block's mean; 0 where there is nothing to measure."""
    live = (sizes > 0) & np.isfinite(sizes)
    logs = np.log(np.where(live, sizes, 1))
    mean = np.bincount(block, logs) / np.maximum(np.bincount(block, live), 1)
    return np.where(live, logs - mean[block], 0.0)


def _block_losses(
    weight: Float32Array, energy: Float64Array, scale: Float64Array, scheme: Scheme, scale_type: ScaleType
) -> Float64Array:
    """Weighted squared error of every block of columns, summed over rows."""
    scaled, importance = weight * scale.astype(np.float32), (energy / scale**2).astype(np.float32)
    grid = fitted_grid(scaled, importance, scheme, scale_type)
    errors = squared_errors(scaled, *grid, scheme.bits, scheme.columns_per_block(energy.size), importance)
    return np.asarray(errors.sum(axis=0))
