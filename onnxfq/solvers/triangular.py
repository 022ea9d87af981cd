"""Solving with triangular factors: mostly matrix products."""

from __future__ import annotations

import numpy as np

from onnxfq.arrays import Float64Array

_BLOCK = 128


def solve_lower(lower: Float64Array, right: Float64Array) -> Float64Array:
    """`(L Lᵀ)⁻¹ B`, [K, columns].

    Args:
        lower: [K, K], L.
        right: [K, columns], B.
    """
    x, k = np.array(right), len(lower)
    starts = range(0, k, _BLOCK)
    inverses = {s: np.linalg.inv(lower[s : s + _BLOCK, s : s + _BLOCK]) for s in starts}
    for s in starts:
        block = slice(s, min(k, s + _BLOCK))
        x[block] = inverses[s] @ (x[block] - lower[block, :s] @ x[:s])
    for s in reversed(starts):
        block = slice(s, min(k, s + _BLOCK))
        x[block] = inverses[s].T @ (x[block] - lower[block.stop :, block].T @ x[block.stop :])
    return np.asarray(x)
