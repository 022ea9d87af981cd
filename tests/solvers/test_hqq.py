from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxfq.arrays import Float32Array
from onnxfq.scheme import Granularity, ScaleType, Scheme
from onnxfq.solvers.hqq import Hqq
from onnxfq.solvers.rtn import Rtn
from support.weights import GRANULARITIES, SCALE_TYPES, block_errors, matrices, schemes

SLOP = 1 + 1e-12  # sums of squares in another order


def errors(weight: Float32Array, scheme: Scheme, scale_type: ScaleType = "float32") -> list[npt.NDArray[np.float64]]:
    """Of every block, with round-to-nearest and with the fit."""
    solvers = (Rtn(), Hqq())
    return [block_errors(weight, s.solve(weight, scheme, None, scale_type=scale_type), scheme) for s in solvers]


@settings(max_examples=50)
@given(weight=matrices(2.0**60), scheme=schemes(), scale_type=st.sampled_from(SCALE_TYPES))
def test_never_worse_than_rtn_on_anything(weight: Float32Array, scheme: Scheme, scale_type: ScaleType) -> None:
    rtn, hqq = errors(weight, scheme, scale_type)
    assert (hqq <= rtn * SLOP).all()


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
