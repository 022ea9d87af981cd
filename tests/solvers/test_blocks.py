from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxfq.arrays import Float32Array
from onnxfq.scheme import BITS, BLOCK_SIZES, Scheme
from onnxfq.solvers.blocks import block_ranges, encode, squared_errors
from support.weights import block_errors, matrices, random_codes


@given(weight=matrices(2.0**127), block_size=st.sampled_from((*BLOCK_SIZES, 1, 70)))
def test_ranges_contain_every_weight_and_zero(weight: Float32Array, block_size: int) -> None:
    starts = np.arange(0, weight.shape[1], block_size)
    lowest, highest = block_ranges(weight, block_size)
    np.testing.assert_array_equal(lowest, np.minimum(np.minimum.reduceat(weight, starts, axis=1), 0))
    np.testing.assert_array_equal(highest, np.maximum(np.maximum.reduceat(weight, starts, axis=1), 0))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", BITS)
def test_encoding_what_was_decoded_changes_nothing(bits: int, symmetric: bool) -> None:
    q = random_codes(9, 83, bits, 32, symmetric=symmetric)
    codes = encode(q.dequantize(), q.scale, q.zero_point, bits, 32)
    np.testing.assert_array_equal(codes, q.codes)
    assert not squared_errors(q.dequantize(), q.scale, q.zero_point, bits, 32).any()


@pytest.mark.parametrize("block_size", [16, 32, 83])
def test_squared_errors_are_those_of_the_codes(block_size: int) -> None:
    q = random_codes(9, 83, 4, block_size)
    weight = np.random.default_rng(1).standard_normal((9, 83), np.float32)
    encoded = encode(weight, q.scale, q.zero_point, 4, block_size)
    q.codes[:] = encoded
    expected = block_errors(weight, q, Scheme(4, "channel"))
    errors = squared_errors(weight, q.scale, q.zero_point, 4, block_size)
    assert errors.shape == q.scale.shape
    np.testing.assert_allclose(errors, expected, rtol=1e-12)


def test_nearest_code_ties_and_ends() -> None:
    scale, zero_point = np.ones((1, 1), np.float32), np.full((1, 1), 3, np.uint8)
    weight = np.array([[-99, -3.4, -0.5, 0.5, 1.5, 12.4, 99]], np.float32)
    np.testing.assert_array_equal(encode(weight, scale, zero_point, 4, 16), [[0, 0, 3, 3, 5, 15, 15]])
    np.testing.assert_array_equal(encode(weight, -scale, zero_point, 4, 16), [[15, 6, 3, 3, 1, 0, 0]])
