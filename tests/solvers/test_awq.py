from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxfq.arrays import Float32Array
from onnxfq.errors import UsageError
from onnxfq.quantized import QuantizedWeight, round_scale
from onnxfq.scheme import BITS, Granularity, ScaleType, Scheme
from onnxfq.solvers import make_solver
from onnxfq.solvers.awq import Awq
from onnxfq.solvers.blocks import encode
from onnxfq.solvers.gptq import Gptq
from onnxfq.solvers.hqq import Hqq
from onnxfq.statistics import Statistics
from support.calibration import Float64Array, disturbed, inputs, measured, row_losses
from support.pairs import pairs
from support.weights import GRANULARITIES, SCALE_TYPES, assert_stands_on_its_grid, awkward, matrices, schemes

K = 150  # no multiple of any block


def uneven(n: int = 40, k: int = K, *, size: float = 0.05) -> tuple[Float32Array, Statistics]:
    """Inputs with outlier channels, and their statistics after earlier stages."""
    x = inputs(600, k) / np.exp(0.5 * np.random.default_rng(0).standard_normal(k))
    x[:, ::23] *= 30
    weight = np.random.default_rng(5).standard_normal((n, k), np.float32) * np.float32(size)
    return weight, measured(x, disturbed(x, 0.01))


def scaled_loss(
    solver: Awq, weights: list[Float32Array], scheme: Scheme, statistics: Statistics, scale: Float64Array
) -> float:
    """The objective in terms of the inputs as they were."""
    total = 0.0
    for weight in weights:
        q = solver.solve(
            weight * scale.astype(np.float32), scheme, statistics.scaled(scale), scale_type="float32"
        ).dequantize()
        total += float(plain_losses(weight, q / scale, statistics).sum())
    return total


def plain_losses(weight: Float32Array, coded: Float64Array | Float32Array, statistics: Statistics) -> Float64Array:
    assert statistics.gram is not None
    w, cross = weight.astype(np.float64), statistics.gram if statistics.cross is None else statistics.cross
    error = coded - w
    losses: Float64Array = (error * (error @ statistics.gram - 2 * w @ (cross - statistics.gram))).sum(axis=1)
    return losses


def is_nearest(weight: Float32Array, q: QuantizedWeight) -> bool:
    return bool((encode(weight, q.scale, q.zero_point, q.bits, q.block_size) == q.codes).all())


def test_its_options_are_its_fields() -> None:
    assert make_solver("awq:steps=4,codes=gptq", calibrated=True) == Awq(steps=4, codes="gptq")


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"rounds": -1}, {"rows": 0}, {"damping": float("nan")}, {"codes": "best"}]
)
def test_senseless_settings(wrong: dict[str, float | str]) -> None:
    field, value = next(iter(wrong.items()))
    with pytest.raises(UsageError, match=rf"got {field}={value}"):
        replace(Awq(), **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("granularity", "symmetric"), list(product((32, "channel", "tensor"), (False, True))))
@pytest.mark.parametrize("bits", BITS)
def test_scaling_helps_where_some_inputs_are_large(bits: int, granularity: int | Granularity, symmetric: bool) -> None:
    weight, statistics = uneven()
    scheme, statistics = Scheme(bits, granularity, symmetric), replace(statistics, cross=None)
    scale = Awq().input_scale([weight], scheme, statistics, scale_type="float32")
    hqq = row_losses(weight, Hqq().solve(weight, scheme, None, scale_type="float32"), statistics).sum()
    plain = row_losses(weight, Awq().solve(weight, scheme, statistics, scale_type="float32"), statistics).sum()
    assert plain < hqq
    if scale is None:  # one grid for all with few codes
        assert bits == 2
        assert not isinstance(granularity, int)
        return
    assert (scale > 0).all()
    assert scaled_loss(Awq(), [weight], scheme, statistics, scale) < 0.99 * plain
    if isinstance(granularity, int):
        assert scale[::23].mean() > 1.2 * np.delete(scale, np.s_[::23]).mean()


@pytest.mark.parametrize("granularity", [32, 128])
def test_scales_differ_within_blocks_only(granularity: int) -> None:
    weight, statistics = uneven()
    scale = Awq().input_scale([weight], Scheme(4, granularity), statistics, scale_type="float16")
    assert scale is not None
    for start in range(0, K, granularity):
        assert np.log(scale[start : start + granularity]).mean() == pytest.approx(0, abs=1e-9)


def test_one_scale_for_all_weights_of_a_stage() -> None:
    one, statistics = uneven()
    other = uneven(70, size=0.2)[0] * np.linspace(0.3, 3, K, dtype=np.float32)
    solver, scheme = Awq(), Scheme(4, 32)
    found = solver.input_scale([one, other], scheme, statistics, scale_type="float32")
    assert found is not None
    unscaled = scaled_loss(solver, [one, other], scheme, statistics, np.ones(K))
    assert scaled_loss(solver, [one, other], scheme, statistics, found) < unscaled
    alone = solver.input_scale([one], scheme, statistics, scale_type="float32")
    assert alone is not None
    assert not np.allclose(found, alone)


@pytest.mark.parametrize("granularity", [16, "channel", "tensor"])
def test_nothing_is_gained_from_inputs_and_weights_that_are_even(granularity: int | Granularity) -> None:
    column = np.random.default_rng(1).standard_normal(90)
    weight = np.stack([np.roll(column, 7 * k) for k in range(64)], axis=1).astype(np.float32)
    statistics = Statistics(tokens=9, gram=np.eye(64) + 0.1)
    assert Awq().input_scale([weight], Scheme(4, granularity), statistics, scale_type="float32") is None


def test_nothing_to_go_by() -> None:
    weight, statistics = uneven()
    assert Awq(steps=1).input_scale([weight], Scheme(), statistics, scale_type="float32") is None
    assert Awq().input_scale([weight], Scheme(), Statistics(tokens=0), scale_type="float32") is None
    dead = Statistics(tokens=5, gram=np.zeros((K, K)), cross=np.zeros((K, K)))
    assert Awq().input_scale([weight], Scheme(), dead, scale_type="float32") is None


def test_weights_too_large_to_be_multiplied() -> None:
    weight, statistics = uneven()
    weight[3, 4] = -3e38
    assert Awq().input_scale([weight], Scheme(), statistics, scale_type="float32") is None


@pytest.mark.parametrize("granularity", [32, "channel"])
def test_dead_inputs_and_dead_weights(granularity: int | Granularity) -> None:
    weight, statistics = uneven()
    assert statistics.gram is not None
    assert statistics.cross is not None
    dead = [0, 1, 23, 70, 149, *range(32, 64)]
    gram, cross = statistics.gram.copy(), statistics.cross.copy()
    for moments in (gram, cross):
        moments[dead] = 0
        moments[:, dead] = 0
    weight[:, [5, 46, 70]] = 0
    scale = Awq().input_scale([weight], Scheme(4, granularity), Statistics(9, gram, cross), scale_type="float32")
    assert scale is not None
    assert np.isfinite(scale).all()
    assert (scale > 0).all()


@pytest.mark.parametrize(
    ("bits", "granularity", "symmetric", "scale_type"), pairs(BITS, GRANULARITIES, (False, True), SCALE_TYPES)
)
def test_codes_are_nearest_whatever_the_weight(
    bits: int, granularity: int | Granularity, symmetric: bool, scale_type: ScaleType
) -> None:
    weight, x = awkward(), inputs(60, K, rank=3)
    scheme = Scheme(bits, granularity, symmetric)
    q = Awq().solve(weight, scheme, measured(x, disturbed(x, 0.5)), scale_type=scale_type)
    assert is_nearest(weight, q)


@pytest.mark.parametrize(("granularity", "symmetric"), list(product(GRANULARITIES, (False, True))))
@pytest.mark.parametrize("bits", [2, 4])
def test_clipping_pays_and_leaves_codes_nearest(bits: int, granularity: int | Granularity, symmetric: bool) -> None:
    x = inputs(1000, K)
    weight = np.random.default_rng(5).standard_normal((40, K), np.float32)
    statistics, scheme = measured(x, disturbed(x)), Scheme(bits, granularity, symmetric)
    solved = [Awq(rounds=r).solve(weight, scheme, statistics, scale_type="float16") for r in (0, 1, 2)]
    assert all(is_nearest(weight, q) for q in solved)
    assert all((round_scale(q.scale, "float16") == q.scale).all() for q in solved)
    losses = [float(row_losses(weight, q, statistics).sum()) for q in solved]
    assert all(after <= before for before, after in pairwise(losses))
    assert granularity == "tensor" or losses[2] < 0.9 * losses[0]


@pytest.mark.parametrize("granularity", [32, "channel"])
def test_gptq_may_choose_the_codes(granularity: int | Granularity) -> None:
    weight, statistics = uneven()
    scheme, both = Scheme(4, granularity), Awq(codes="gptq")
    q, gptq = (s.solve(weight, scheme, statistics, scale_type="float32") for s in (both, Gptq()))
    np.testing.assert_array_equal(q.codes, gptq.codes)
    scale = both.input_scale([weight], scheme, statistics, scale_type="float32")
    if scale is not None:
        plain = scaled_loss(both, [weight], scheme, statistics, np.ones(K))
        assert scaled_loss(both, [weight], scheme, statistics, scale) < plain


@settings(max_examples=15)
@given(
    weight=matrices(2.0**127),
    scheme=schemes(),
    scale_type=st.sampled_from(SCALE_TYPES),
    tokens=st.integers(1, 100),
)
def test_any_weight(weight: Float32Array, scheme: Scheme, scale_type: ScaleType, tokens: int) -> None:
    x = inputs(tokens, weight.shape[1])
    statistics = measured(x, disturbed(x))
    q = Awq().solve(weight, scheme, statistics, scale_type=scale_type)
    assert_stands_on_its_grid(q, weight, scheme, scale_type)
    scale = Awq().input_scale([weight], scheme, statistics, scale_type=scale_type)
    if scale is not None:
        assert (scale > 0).all()
        assert np.isfinite(weight * scale.astype(np.float32)).all()
