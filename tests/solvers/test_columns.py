"""Weights rounded as they are stored: the same as the way through turned rows."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxfq.half import to_float32, transposed
from onnxfq.quantized import squared_error, weight_range
from onnxfq.scheme import Scheme
from onnxfq.solvers.columns import round_columns
from onnxfq.solvers.rtn import Rtn

SIZES = [(1, 1), (32, 5), (33, 300), (96, 513), (17, 1), (300, 40)]
EXTREMES = [0.0, -0.0, 1e-45, -1e-40, 3.4e38, -3.4e38, 1.0, 0.5, -0.5]


def check(stored: np.ndarray, columns: slice, scheme: Scheme) -> None:
    weight = transposed(stored[:, columns])
    wanted = Rtn().solve(weight, scheme, None, scale_type="float32")
    got, error, found = round_columns(stored, columns, scheme)
    for name in ("codes", "scale", "zero_point"):
        assert np.array_equal(getattr(got, name), getattr(wanted, name)), name
    assert (got.bits, got.block_size, got.symmetric) == (wanted.bits, wanted.block_size, False)
    assert error == pytest.approx(squared_error(weight, wanted), rel=1e-3)
    assert found.sum_squares == pytest.approx(weight_range(weight).sum_squares)
    assert (found.min, found.max) == (weight.min(), weight.max())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("block_size", [16, 32, 128, "channel"])
def test_it_gives_the_codes_of_rtn(size: tuple[int, int], bits: int, block_size: int | str) -> None:
    stored = np.random.default_rng(0).standard_normal(size, np.float32)
    scheme = Scheme(bits=bits, block_size=block_size)  # type: ignore[arg-type]
    check(stored, slice(0, size[1]), scheme)
    check(stored, slice(size[1] // 3, size[1] // 3 + max(1, size[1] // 2)), scheme)


@given(values=st.lists(st.sampled_from(EXTREMES), min_size=12, max_size=12))
def test_extreme_weights_too(values: list[float]) -> None:
    stored = np.array(values, np.float32).reshape(4, 3)
    weight = transposed(stored)
    wanted = Rtn().solve(weight, Scheme(block_size=16), None, scale_type="float32")
    got, _, found = round_columns(stored, slice(0, 3), Scheme(block_size=16))
    assert np.array_equal(got.codes, wanted.codes)
    assert np.array_equal(got.scale, wanted.scale)
    assert np.array_equal(got.zero_point, wanted.zero_point)
    assert (found.min, found.max) == (weight.min(), weight.max())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0), (40, 7), (63, 299)])
def test_what_is_not_finite_shows_in_the_sum_of_squares(value: float, place: tuple[int, int]) -> None:
    stored = np.ones((64, 300), np.float32)
    stored[place] = value
    assert not round_columns(stored, slice(0, 300), Scheme())[2].sum_squares < float("inf")


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_widened_exactly(dtype: np.dtype[np.generic]) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    stored = bits.view(dtype)
    with np.errstate(invalid="ignore"):
        wanted = stored.astype(np.float32)
    for columns in (slice(0, 256), slice(3, 77)):
        assert np.array_equal(to_float32(stored, columns), wanted[:, columns], equal_nan=True)
