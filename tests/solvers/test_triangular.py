"""Triangular factors: inverses and products."""

from __future__ import annotations

import numpy as np
import pytest

from onnxfq.solvers.triangular import inverse_of_root, times_inverse


@pytest.mark.parametrize("k", [1, 5, 128, 300])
def test_factors_are_those_of_numpy(k: int) -> None:
    rng = np.random.default_rng(k)
    root = rng.standard_normal((k, k))
    matrix, right = root @ root.T / k + np.eye(k), rng.standard_normal((k, 3))
    lower = np.linalg.cholesky(matrix).astype(np.float32)
    np.testing.assert_allclose(inverse_of_root(matrix) @ lower, np.eye(k), atol=1e-4)
    upper = np.linalg.inv(lower)[::-1, ::-1].copy()
    np.testing.assert_allclose(times_inverse(right.T.astype(np.float32), upper), right.T @ upper.T @ upper, atol=1e-4)
