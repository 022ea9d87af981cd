"""Neighbours in a row of int8 are so small together that no processor cuts off their products."""

from __future__ import annotations

import numpy as np
import pytest

from onnxfq.arrays import Uint8Array
from onnxfq.scheme import Scheme
from onnxfq.solvers import SOLVERS, make_solver
from onnxfq.solvers.pairs import MOST, cut_codes
from onnxfq.statistics import Statistics
from support.models import normal


def together(codes: Uint8Array) -> int:
    """The largest magnitude of two neighbours of one sign."""
    values = np.pad(codes.astype(np.int64) - 128, ((0, 0), (0, codes.shape[1] % 2)))
    first, second = values[:, 0::2], values[:, 1::2]
    return int(np.where(first * second > 0, np.abs(first + second), 0).max())


@pytest.mark.parametrize("k", [96, 37])
@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("format", ["int8", "dgq"])
def test_no_solver_leaves_more(format: str, name: str, k: int) -> None:
    weight, x = normal(40, k), np.random.default_rng(1).standard_normal((300, k))
    weight[3], weight[4] = 1.0, np.where(np.arange(k) % 3, -1.0, 1.0)
    gram = x.T @ x / len(x)
    known = Statistics(tokens=300, gram=gram, mean=x.mean(0), float_mean=x.mean(0), mean_square=gram.diagonal())
    q = make_solver(name, calibrated=True).solve(weight, Scheme(format=format), known, scale_type="float32")  # type: ignore[arg-type]
    if q.row_scale is None:
        assert together(q.codes) <= MOST
    else:
        integers = q.dequantize() / q.row_scale[:, None]
        assert np.abs(np.rint(integers)).max() <= MOST / 2
    error = float(np.square(weight - q.dequantize()).sum() / np.square(weight).sum())
    assert error < (2e-4 if format == "int8" else 2e-2)


def test_codes_are_cut_by_what_is_too_much_alone() -> None:
    codes = np.array([[255, 255, 128 + 64, 128 + 64, 0, 1, 255, 0, 255]], np.uint8)
    cut = cut_codes(codes)
    assert (cut.astype(int) - 128).tolist() == [[64, 64, 64, 64, -64, -64, 127, -128, 127]]
    assert cut_codes(cut) is cut
