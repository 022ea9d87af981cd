from __future__ import annotations

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxfq.half import transposed
from onnxfq.quantized import SMALLEST_SCALE, STORED_TYPES, QuantizedWeight, round_scale
from onnxfq.scheme import ScaleType
from support.weights import SCALE_TYPES


def largest(scale_type: ScaleType) -> float:
    return float(ml_dtypes.finfo(STORED_TYPES[scale_type]).max)


def test_dequantize_with_a_short_last_block() -> None:
    q = QuantizedWeight(
        codes=np.array([[0, 1, 2, 15, 8]], np.uint8),
        scale=np.array([[0.5, -2.0, 4.0]], np.float32),
        zero_point=np.array([[1, 8, 8]], np.uint8),
        bits=4,
        block_size=2,
    )
    assert q.shape == (1, 5)
    assert q.dequantize().dtype == np.float32
    np.testing.assert_array_equal(q.dequantize(), [[-0.5, 0.0, 12.0, -14.0, 0.0]])


@pytest.mark.parametrize("scale_type", SCALE_TYPES)
@given(value=st.floats(-(2.0**127), 2.0**127), cover=st.booleans())
def test_rounded_scales_are_representable(scale_type: ScaleType, value: float, cover: bool) -> None:
    rounded = round_scale(np.array([value]), scale_type, cover=cover)
    assert rounded.dtype == np.float32
    np.testing.assert_array_equal(rounded.astype(STORED_TYPES[scale_type]).astype(np.float32), rounded)
    np.testing.assert_array_equal(round_scale(rounded, scale_type, cover=cover), rounded)
    assert SMALLEST_SCALE[scale_type] <= abs(rounded[0]) <= largest(scale_type)
    assert np.signbit(rounded[0]) == np.signbit(value)


@pytest.mark.parametrize("scale_type", SCALE_TYPES)
@given(value=st.floats(2.0**-24, 65504.0), sign=st.sampled_from([1, -1]))
def test_covering_scales_fall_short_by_a_millionth_at_most(scale_type: ScaleType, value: float, sign: int) -> None:
    rounded = abs(float(round_scale(np.array([sign * value]), scale_type, cover=True)[0]))
    spacing = float(ml_dtypes.finfo(STORED_TYPES[scale_type]).eps) * value + 2.0**-24
    assert value * (1 - 1e-6) <= rounded <= value + spacing


def test_nearest_scale_without_cover() -> None:
    assert round_scale(np.array([1 + 2.0**-12]), "float16")[0] == 1
    assert round_scale(np.array([1 + 2.0**-12]), "float16", cover=True)[0] == 1 + 2.0**-10
    assert round_scale(np.array([-1 - 2.0**-9]), "bfloat16", cover=True)[0] == -1 - 2.0**-7


@pytest.mark.parametrize("scale_type", SCALE_TYPES)
def test_zero_and_overflow(scale_type: ScaleType) -> None:
    rounded = round_scale(np.array([0.0, 1e300, -1e300]), scale_type)
    np.testing.assert_array_equal(
        rounded, np.array([SMALLEST_SCALE[scale_type], largest(scale_type), -largest(scale_type)], np.float32)
    )


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_every_half_precision_number_is_turned_into_itself(dtype: type) -> None:
    every: npt.NDArray[np.generic] = np.arange(1 << 16, dtype=np.uint16).view(dtype).reshape(1 << 9, 1 << 7)
    for part in (every, every[:, 5:70], every.T):  # whole, some columns, in the other order
        got = transposed(part)
        assert got.flags.c_contiguous
        wanted = np.ascontiguousarray(part.T.astype(np.float32))
        real = ~np.isnan(wanted)
        np.testing.assert_array_equal(got.view(np.uint32)[real], wanted.view(np.uint32)[real])
        assert np.isnan(got[~real]).all()
