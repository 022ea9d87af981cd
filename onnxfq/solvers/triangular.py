"""Solving with triangular factors: mostly matrix products."""

from __future__ import annotations

import numpy as np

from onnxfq.arrays import Float32Array

_BLOCK = 128
_PARTS = 8  # of a triangle whose zeros are left out: a little more than half of it is left


def solve_lower(lower: Float32Array, right: Float32Array) -> Float32Array:
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


def times_inverse(right: Float32Array, factor: Float32Array) -> Float32Array:
    """`B UᵀU`, [rows, K], the zeros of the upper triangular U [K, K] left out.

    Args:
        right: [rows, K], B.
        factor: U.
    """
    k = len(factor)
    step = max(_BLOCK, -(-k // _PARTS))
    blocks = [slice(start, min(k, start + step)) for start in range(0, k, step)]
    half, found = np.empty_like(right), np.empty_like(right)
    for block in blocks:
        half[:, block] = right[:, block.start :] @ factor[block, block.start :].T
    for block in blocks:
        found[:, block] = half[:, : block.stop] @ factor[: block.stop, block]
    return found
