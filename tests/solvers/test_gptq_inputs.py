"""Inputs that make a calibrated solver stumble: dead, constant, too few, and second moments that are no such thing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnxfq.scheme import Granularity, Scheme
from onnxfq.solvers import curvature
from onnxfq.solvers.curvature import Curvature, inverse_factor
from onnxfq.solvers.gptq import Gptq
from onnxfq.solvers.hqq import Hqq
from onnxfq.solvers.rtn import Rtn
from onnxfq.statistics import Statistics
from support.calibration import disturbed, inputs, measured, row_losses
from support.weights import steps

K = 150
GRANULARITIES: tuple[int | Granularity, ...] = (32, 128, "channel", "tensor")


@pytest.mark.parametrize("damping", [0.0, 0.05])
def test_dead_columns_stay_at_their_nearest_codes(damping: float) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((20, K), np.float32)
    x = inputs(2000, K)
    x[:, [3, 70, 149]] = 0
    solver = Gptq(damping=damping, refit_damping=damping)
    q = solver.solve(weight, Scheme(8, 32), measured(x), scale_type="float32")
    assert np.median(steps(weight, q)[:, [3, 70, 149]]) < 0.5
    assert not q.remarks
    without = np.ones(K, bool)
    without[[3, 70, 149]] = False
    hqq = Hqq().solve(weight, Scheme(8, 32), None, scale_type="float32")
    assert row_losses(weight, q, measured(x)).sum() < 0.5 * row_losses(weight, hqq, measured(x)).sum()


def test_a_whole_dead_block_is_kept_nearly_as_it_is() -> None:
    weight = np.random.default_rng(0).standard_normal((20, 96), np.float32)
    x = inputs(2000, 96)
    x[:, 32:64] = 0
    q = Gptq().solve(weight, Scheme(4, 32), measured(x), scale_type="float32")
    assert steps(weight, q)[:, 32:64].max() < 1.5


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("tokens", [1, 20])
def test_fewer_tokens_than_columns(granularity: int | Granularity, tokens: int) -> None:
    weight = np.random.default_rng(0).standard_normal((20, K), np.float32)
    x = inputs(tokens, K)
    statistics = measured(x, disturbed(x))
    q = Gptq().solve(weight, Scheme(4, granularity), statistics, scale_type="float16")
    rtn = Rtn().solve(weight, Scheme(4, granularity), None, scale_type="float16")
    assert not q.remarks
    assert row_losses(weight, q, statistics).sum() < row_losses(weight, rtn, statistics).sum()
    assert steps(weight, q).max() < 30  # the damping keeps what no input tests near its place


def test_constant_inputs() -> None:
    weight = np.random.default_rng(0).standard_normal((20, K), np.float32)
    statistics = measured(np.ones((50, K)))
    q = Gptq().solve(weight, Scheme(4, 32), statistics, scale_type="float16")
    error = np.abs(q.dequantize().sum(axis=1) - weight.sum(axis=1))
    assert error.max() < 0.05  # errors cancel within every row


def test_damping_is_raised_until_it_works_and_remarked() -> None:
    weight = np.random.default_rng(0).standard_normal((20, K), np.float32)
    gram = measured(inputs(1000, K)).gram
    assert gram is not None
    values, vectors = np.linalg.eigh(gram)
    values[:10] = -0.2 * values.mean()
    statistics = Statistics(tokens=1000, gram=(vectors * values) @ vectors.T, cross=gram)
    q = Gptq(damping=0.03).solve(weight, Scheme(4, 32), statistics, scale_type="float16")
    assert q.remarks == ("damping raised to 0.3", "damping of the target raised to 1")
    assert np.isfinite(q.dequantize()).all()


def test_rounding_errors_without_damping() -> None:
    weight = np.random.default_rng(0).standard_normal((20, K), np.float32)
    statistics = measured(inputs(30, K))
    q = Gptq(damping=0, refit_damping=0).solve(weight, Scheme(4, 32), statistics, scale_type="float16")
    assert q.remarks in {(), ("damping raised to 0.0001",)}
    assert row_losses(weight, q, statistics).sum() >= 0


def test_the_factor_is_that_of_the_inverse() -> None:
    gram = measured(inputs(1000, 300)).gram
    assert gram is not None
    H = gram / gram.diagonal().mean()
    factor, damping = inverse_factor(H, 0.05)
    assert damping == 0.05
    np.testing.assert_array_equal(factor, np.triu(factor))
    expected = np.linalg.inv(H + 0.05 * np.eye(300))
    np.testing.assert_allclose(factor.T.astype(np.float64) @ factor, expected, atol=1e-5 * expected.max())


def test_a_stage_is_factorised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = np.random.default_rng(0).standard_normal((20, K), np.float32)
    x = inputs(500, K)
    statistics = measured(x, disturbed(x))
    made: list[Statistics] = []

    def counted(found: Statistics, *dampings: float) -> Curvature:
        made.append(found)
        return factorize(found, *dampings)  # type: ignore[arg-type]

    factorize = curvature._curvature
    monkeypatch.setattr(curvature, "_curvature", counted)
    for bits in (4, 8, 4):
        Gptq().solve(weight, Scheme(bits), statistics, scale_type="float16")
    assert made == [statistics]
    other = replace(statistics)
    Gptq().solve(weight, Scheme(), other, scale_type="float16")
    assert made == [statistics, other]


def test_cross_that_equals_gram_is_as_none() -> None:
    weight = np.random.default_rng(0).standard_normal((20, K), np.float32)
    statistics = measured(inputs(500, K))
    same = replace(statistics, cross=statistics.gram)
    solved = [Gptq().solve(weight, Scheme(), s, scale_type="float16") for s in (statistics, same)]
    np.testing.assert_array_equal(solved[0].codes, solved[1].codes)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_the_size_of_inputs_does_not_matter(size: float) -> None:
    weight = np.random.default_rng(0).standard_normal((20, K), np.float32)
    x = inputs(500, K)
    statistics = measured(x, disturbed(x))
    assert statistics.gram is not None
    assert statistics.cross is not None
    scaled = replace(statistics, gram=statistics.gram * size, cross=statistics.cross * size)
    solved = [Gptq().solve(weight, Scheme(), s, scale_type="float16") for s in (statistics, scaled)]
    assert (solved[0].codes != solved[1].codes).mean() < 0.02


@pytest.mark.parametrize("sign", [1, -1])
def test_blocks_of_one_sign_are_not_clipped(sign: int) -> None:
    weight = (sign * np.random.default_rng(0).uniform(10, 11, (8, 64))).astype(np.float32)
    x = inputs(500, 64)
    q = Gptq().solve(weight, Scheme(4, 32), measured(x), scale_type="float32")
    rtn = Rtn().solve(weight, Scheme(4, 32), None, scale_type="float32")
    assert np.abs(q.dequantize() - weight).max() < 4
    assert row_losses(weight, q, measured(x)).sum() < 0.5 * row_losses(weight, rtn, measured(x)).sum()


def test_rows_of_zeros_stay_zero() -> None:
    weight = np.random.default_rng(0).standard_normal((6, 64), np.float32)
    weight[2] = 0
    x = inputs(500, 64)
    q = Gptq().solve(weight, Scheme(4, 32), measured(x, disturbed(x)), scale_type="float16")
    assert not q.dequantize()[2].any()


def test_where_nothing_tells_which_settings_are_best_they_are_the_usual_ones() -> None:
    weight = np.random.default_rng(0).standard_normal((20, K), np.float32)
    x = inputs(500, K)
    few, many = (measured(x, disturbed(x), tokens=t) for t in (310, 33_000))
    explicit = Gptq(alpha=0.5, residual=0.5, target_damping=0.1)
    for known in (few, many):
        codes = [one.solve(weight, Scheme(8), known, scale_type="float32").codes for one in (Gptq(), explicit)]
        assert np.array_equal(codes[0], codes[1])
