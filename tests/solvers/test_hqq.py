from __future__ import annotations

from itertools import product

import numba
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxfq.arrays import Float32Array
from onnxfq.quantized import round_scale
from onnxfq.scheme import BITS, Granularity, ScaleType, Scheme
from onnxfq.solvers import make_solver
from onnxfq.solvers.hqq import Hqq
from onnxfq.solvers.rtn import Rtn
from support.weights import SCALE_TYPES, awkward, block_errors, matrices, schemes

GRANULARITIES: tuple[int | Granularity, ...] = (16, 32, 128, "channel", "tensor")
SLOP = 1 + 1e-12  # sums of squares in another order


def errors(weight: Float32Array, scheme: Scheme, scale_type: ScaleType = "float32") -> list[npt.NDArray[np.float64]]:
    """Of every block, with round-to-nearest and with the fit."""
    solvers = (Rtn(), Hqq())
    return [block_errors(weight, s.solve(weight, scheme, None, scale_type=scale_type), scheme) for s in solvers]


def test_what_it_is() -> None:
    solver = make_solver("hqq")
    assert isinstance(solver, Hqq)
    assert solver.name == "hqq"
    assert not solver.calibrated
    assert isinstance(make_solver("auto"), Hqq)


@pytest.mark.parametrize("scale_type", SCALE_TYPES)
@pytest.mark.parametrize(("bits", "granularity", "symmetric"), list(product(BITS, GRANULARITIES, (False, True))))
def test_never_worse_than_rtn(
    bits: int, granularity: int | Granularity, symmetric: bool, scale_type: ScaleType
) -> None:
    rtn, hqq = errors(awkward(), Scheme(bits, granularity, symmetric), scale_type)
    assert (hqq <= rtn * SLOP).all()


@settings(max_examples=50)
@given(weight=matrices(2.0**60), scheme=schemes(), scale_type=st.sampled_from(SCALE_TYPES))
def test_never_worse_than_rtn_on_anything(weight: Float32Array, scheme: Scheme, scale_type: ScaleType) -> None:
    rtn, hqq = errors(weight, scheme, scale_type)
    assert (hqq <= rtn * SLOP).all()


@settings(max_examples=50)
@given(weight=matrices(float(np.finfo(np.float32).max)), scheme=schemes(), scale_type=st.sampled_from(SCALE_TYPES))
def test_any_finite_weight_gives_finite_ones(weight: Float32Array, scheme: Scheme, scale_type: ScaleType) -> None:
    q = Hqq().solve(weight, scheme, None, scale_type=scale_type)
    assert np.isfinite(q.dequantize()).all()
    assert q.codes.max() < scheme.levels
    assert q.zero_point.max() < scheme.levels
    assert q.scale.shape == q.zero_point.shape == (weight.shape[0], -(-weight.shape[1] // q.block_size))
    assert (q.bits, q.scale_type, q.symmetric) == (scheme.bits, scale_type, scheme.symmetric)
    np.testing.assert_array_equal(round_scale(q.scale, scale_type), q.scale)
    if scheme.symmetric:
        assert (q.zero_point == scheme.default_zero_point).all()


@pytest.mark.parametrize(
    ("bits", "granularity", "symmetric", "share"),
    [
        (4, 32, False, 0.92),
        (4, 128, False, 0.92),
        (4, 32, True, 0.90),
        (4, "channel", False, 0.85),
        (4, "tensor", False, 0.60),
        (2, 32, False, 0.75),
        (2, 64, True, 0.60),
        (8, 32, False, 0.95),
    ],
)
def test_how_much_better_on_normal_weights(
    bits: int, granularity: int | Granularity, symmetric: bool, share: float
) -> None:
    weight = np.random.default_rng(1).standard_normal((64, 512), np.float32)
    rtn, hqq = errors(weight, Scheme(bits, granularity, symmetric))
    assert hqq.sum() < share * rtn.sum()


def exhaustive(block: npt.NDArray[np.float64], levels: int) -> float:
    """Least squared error over all zero points and very many scales, each refitted to its codes."""
    span = float(np.ptp(np.append(block, 0))) / (levels - 1)
    scale = span * np.linspace(0.3, 1.4, 1500)[:, None, None]
    zero_point = np.arange(levels)[:, None]
    t = np.clip(np.rint(block / scale), -zero_point, levels - 1 - zero_point)
    squares = np.maximum((t * t).sum(axis=-1), 1)
    best: np.float64 = ((block**2).sum() - (t * block).sum(axis=-1) ** 2 / squares).min()
    return float(best)


@pytest.mark.parametrize(("bits", "granularity"), [(4, 32), (4, 128), (2, 32), (2, "channel")])
def test_close_to_the_best_there_is(bits: int, granularity: int | Granularity) -> None:
    weight = np.random.default_rng(2).standard_normal((6, 256), np.float32)
    scheme = Scheme(bits, granularity)
    _, hqq = errors(weight, scheme)
    blocks = weight.astype(np.float64).reshape(hqq.size, -1)
    assert hqq.sum() <= 1.01 * sum(exhaustive(block, scheme.levels) for block in blocks)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_outliers_are_clipped_where_that_pays(granularity: int | Granularity, symmetric: bool) -> None:
    weight = np.random.default_rng(3).standard_normal((40, 4000), np.float32) * np.float32(0.01)
    weight[:, 7] = 0.3
    rtn, hqq = errors(weight, Scheme(4, granularity, symmetric))
    assert hqq.sum() < 0.4 * rtn.sum()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_weights_on_a_grid_survive(granularity: int | Granularity, symmetric: bool) -> None:
    codes = np.random.default_rng(0).integers(0, 16, (5, 100))
    codes[:, ::16], codes[:, 1::16] = 0, 15
    weight = (np.float32(0.375) * (codes - 8)).astype(np.float32)
    q = Hqq().solve(weight, Scheme(4, granularity, symmetric), None, scale_type="bfloat16")
    np.testing.assert_array_equal(q.dequantize(), weight)


@pytest.mark.parametrize("value", [0.0, 1e-45, -1e-40, 0.75, -3e38])
@pytest.mark.parametrize("symmetric", [False, True])
def test_constant_blocks(symmetric: bool, value: float) -> None:
    weight = np.full((2, 40), value, np.float32)
    q = Hqq().solve(weight, Scheme(4, 32, symmetric), None, scale_type="float32")
    np.testing.assert_allclose(q.dequantize(), weight, rtol=1e-6, atol=2.0**-126)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("symmetric", [False, True])
def test_same_bytes_for_any_number_of_threads(granularity: int | Granularity, symmetric: bool) -> None:
    weight = np.random.default_rng(0).standard_normal((64, 300), np.float32)
    threads = numba.get_num_threads()
    solved = []
    for count in (1, min(2, threads)):
        numba.set_num_threads(count)
        q = Hqq().solve(weight, Scheme(4, granularity, symmetric), None, scale_type="float16")
        solved.append((q.codes.tobytes(), q.scale.tobytes(), q.zero_point.tobytes()))
    numba.set_num_threads(threads)
    assert solved[0] == solved[1]


def test_input_is_left_alone() -> None:
    weight = awkward()
    before = weight.copy()
    Hqq().solve(weight, Scheme(), None, scale_type="float32")
    np.testing.assert_array_equal(weight, before)
