"""Triangular factors of symmetric matrices, and products with them: mostly matrix products, in fixed pieces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from onnxfq.arrays import Float32Array, Float64Array
from onnxfq.system.threads import spread

_LEAF = 96  # rows and columns of a matrix that is factorized without being split
_PIECE = 128  # rows or columns of a product that one thread computes at once
_PARTS = 8  # of a triangle whose zeros are left out: a little more than half of it is left


def inverse_of_root(matrix: Float64Array) -> Float32Array:
    """`L⁻¹` for the lower `L` with `L Lᵀ` = `matrix`, of which only the lower half is read.

    Both at once, half by half: a half's own inverse turns what is below it into products. What no other half is
    computed from is computed in float32.

    Raises:
        LinAlgError: the matrix is not positive definite.
    """
    found: Float32Array = _inverse_of_root(matrix, np.float32)
    return found


def _inverse_of_root(matrix: Float64Array, dtype: type[np.floating]) -> Any:  # noqa: ANN401
    size = len(matrix)
    if size <= _LEAF:
        return np.tril(np.linalg.inv(np.linalg.cholesky(matrix))).astype(dtype)
    half = size // 2
    below, rest = np.empty((size - half, half)), np.zeros((size - half, size - half))
    turned, inverse = np.empty(below.shape, dtype), np.zeros(matrix.shape, dtype)
    first = _inverse_of_root(matrix[:half, :half], np.float64)

    def fill_below(part: slice) -> None:
        below[:, part] = matrix[half:, : part.stop] @ first[part, : part.stop].T

    def fill_rest(part: slice) -> None:
        own = matrix[half:, half:][part, : part.stop]
        np.subtract(own, below[part] @ below[: part.stop].T, out=rest[part, : part.stop])

    def turn(part: slice) -> None:
        turned[:, part] = lower[:, part.start :] @ inverse[part.start : half, part]

    def fill(part: slice) -> None:
        np.matmul(-second[part, : part.stop], turned[: part.stop], out=inverse[half:, :half][part])

    _in_pieces(half, fill_below)
    _in_pieces(size - half, fill_rest)
    second = _inverse_of_root(rest, dtype)
    inverse[:half, :half], inverse[half:, half:] = first, second
    lower = below.astype(dtype, copy=False)
    _in_pieces(half, turn)
    _in_pieces(size - half, fill)
    return inverse


def _in_pieces(size: int, work: Callable[[slice], None]) -> None:
    """Call a function with the slices of `size`; which thread does which changes no result."""

    def loop(begin: int, end: int) -> None:
        for piece in range(begin, end):
            work(slice(piece * _PIECE, min(size, (piece + 1) * _PIECE)))

    spread(loop, -(-size // _PIECE))


def times_inverse(right: Float32Array, factor: Float32Array) -> Float32Array:
    """`B UᵀU`, [rows, K], the zeros of the upper triangular U [K, K] left out.

    Args:
        right: [rows, K], B.
        factor: U.
    """
    k = len(factor)
    step = max(_PIECE, -(-k // _PARTS))
    blocks = [slice(start, min(k, start + step)) for start in range(0, k, step)]
    half, found = np.empty_like(right), np.empty_like(right)
    for block in blocks:
        half[:, block] = right[:, block.start :] @ factor[block, block.start :].T
    for block in blocks:
        found[:, block] = half[:, : block.stop] @ factor[: block.stop, block]
    return found
