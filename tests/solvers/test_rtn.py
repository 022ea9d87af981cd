from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxfq.arrays import Float32Array, Uint8Array
from onnxfq.quantized import round_scale
from onnxfq.scheme import BITS, Granularity, ScaleType, Scheme
from onnxfq.solvers import range_grid as range_grid_module
from onnxfq.solvers.range_grid import range_grid
from onnxfq.solvers.rtn import Rtn
from support.weights import GRANULARITIES, LARGEST, assert_stands_on_its_grid, matrices, schemes, steps


@pytest.mark.parametrize(
    ("scale_type", "largest"), [("float32", 2.0**122), ("bfloat16", 2.0**122), ("float16", 60000.0)]
)
@settings(max_examples=60)
@given(data=st.data(), scheme=schemes())
def test_error_is_half_a_step_at_most(
    scale_type: ScaleType, largest: float, data: st.DataObject, scheme: Scheme
) -> None:
    weight = data.draw(matrices(largest))
    q = Rtn().solve(weight, scheme, None, scale_type=scale_type)
    assert steps(weight, q).max() <= 0.5 + 1e-4
    assert_stands_on_its_grid(q, weight, scheme, scale_type)


@pytest.mark.parametrize("scale", [1.0, 0.25, 2.0**-20, 0.1, 1 / 3])
@pytest.mark.parametrize(("bits", "granularity"), list(product(BITS, GRANULARITIES)))
def test_weights_on_a_grid_survive(bits: int, granularity: int | Granularity, scale: float) -> None:
    scheme = Scheme(bits, granularity)
    rng = np.random.default_rng(bits)
    n, k = 3, 160
    codes = rng.integers(0, scheme.levels, (n, k))
    codes[:, ::16], codes[:, 1::16] = 0, scheme.levels - 1
    zero_point = rng.integers(0, scheme.levels, (n, k // 16)).repeat(16, axis=1)
    if granularity != 16:
        zero_point[:] = zero_point[0, 0]
    weight = (np.float32(scale) * (codes - zero_point)).astype(np.float32)
    q = Rtn().solve(weight, scheme, None, scale_type="float32")
    np.testing.assert_array_equal(q.codes, codes)
    if np.log2(scale).is_integer():
        np.testing.assert_array_equal(q.dequantize(), weight)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("bits", BITS)
def test_symmetric_grids_of_either_sign_survive(bits: int, sign: int) -> None:
    scheme = Scheme(bits, 32, symmetric=True)
    codes = np.random.default_rng(0).integers(0, scheme.levels, (4, 64))
    codes[:, ::32] = 0
    weight = (sign * 0.5 * (codes - scheme.default_zero_point)).astype(np.float32)
    q = Rtn().solve(weight, scheme, None, scale_type="float16")
    np.testing.assert_array_equal(q.codes, codes)
    np.testing.assert_array_equal(q.scale, np.float32(sign * 0.5))


def test_symmetric_scale_serves_the_larger_side() -> None:
    weight = np.zeros((2, 32), np.float32)
    weight[0, :2], weight[1, :2] = (8, -7), (-8, 7)
    q = Rtn().solve(weight, Scheme(4, 32, symmetric=True), None, scale_type="float32")
    np.testing.assert_array_equal(q.scale, [[-1], [1]])
    np.testing.assert_array_equal(q.dequantize(), weight)


@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, -1.5, 1e-45, -1e-40, 1e-30, LARGEST, -LARGEST])
@pytest.mark.parametrize(("bits", "symmetric"), list(product(BITS, (False, True))))
def test_constant_blocks(bits: int, symmetric: bool, value: float) -> None:
    weight = np.full((1, 40), value, np.float32)
    q = Rtn().solve(weight, Scheme(bits, 32, symmetric), None, scale_type="float32")
    np.testing.assert_allclose(q.dequantize(), weight, rtol=1e-6, atol=2.0**-126)
    if abs(value) < 2.0**-128:
        np.testing.assert_array_equal(q.codes[0, :32], q.zero_point[0, 0])
        assert not q.dequantize().any()


@pytest.mark.parametrize(("bits", "sign"), list(product(BITS, (1, -1))))
def test_blocks_of_one_sign_are_not_clipped(bits: int, sign: int) -> None:
    weight = (sign * np.linspace(10, 11, 64, dtype=np.float32))[None]
    q = Rtn().solve(weight, Scheme(bits, 64), None, scale_type="float32")
    assert q.zero_point[0, 0] == (0 if sign > 0 else 2**bits - 1)
    assert abs(q.dequantize()[0, -1] - weight[0, -1]) < 1e-5


def test_range_wider_than_float32() -> None:
    weight = np.array([[LARGEST, -LARGEST, 1e38, 0.0]], np.float32)
    q = Rtn().solve(weight, Scheme(8, 16), None, scale_type="float32")
    assert steps(weight, q).max() <= 1  # half a step beyond the largest float32 is infinite
    np.testing.assert_allclose(q.dequantize(), weight, rtol=0.02)


def test_float16_scales_beyond_their_range_clip_and_stay_finite() -> None:
    weight = np.array([[1e30, -1e30, 1.0]], np.float32)
    q = Rtn().solve(weight, Scheme(4, 16), None, scale_type="float16")
    assert q.scale[0, 0] == 65504
    assert np.isfinite(q.dequantize()).all()


def test_the_usual_grid_is_that_of_the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    scales = 10.0 ** rng.uniform(-44, 38, (300, 1))
    weight = np.clip(rng.standard_normal((300, 200)) * scales, -3.4e38, 3.4e38).astype(np.float32)
    weight[:10] = 0
    weight[10:20, :32] = np.abs(weight[10:20, :32])
    for bits in (2, 4, 8):
        scheme = Scheme(bits=bits, symmetric=False)
        short = range_grid(weight, scheme, "float32")
        with monkeypatch.context() as patch:
            patch.setattr(range_grid_module, "_grid", long_way)
            for got, wanted in zip(short, range_grid(weight, scheme, "float32"), strict=True):
                np.testing.assert_array_equal(got, wanted)


def long_way(lowest: Float32Array, highest: Float32Array, top: int) -> tuple[Float32Array, Uint8Array]:
    low, high = lowest.astype(np.float64), highest.astype(np.float64)
    scale = round_scale((high - low) / top, "float32", cover=True)
    return scale, np.clip(np.rint(-low / scale), 0, top).astype(np.uint8)
