"""Dual grids: what is always true of them, whichever algorithm chose the codes, and how close they come."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxfq.arrays import Float32Array
from onnxfq.dual_grain import MOST, REACH, TOP, DualGrid
from onnxfq.quantized import QuantizedWeight
from onnxfq.scheme import BLOCK_SIZES, ScaleType, Scheme
from onnxfq.solvers import BEST_WITHOUT_DATA, SOLVERS, Solver, make_solver
from onnxfq.solvers.curvature import curvature
from onnxfq.solvers.draft import on_fitted_grid
from onnxfq.solvers.dual_descent import _best_integers, descend_dual
from onnxfq.solvers.lanes import Lanes
from onnxfq.statistics import Statistics
from onnxfq.system.threads import limited_threads
from support.calibration import disturbed, inputs, measured, objective, row_losses
from support.weights import LARGEST, SCALE_TYPES, awkward, matrices

ALGORITHMS = (*SOLVERS, "awq:codes=gptq")
CALIBRATED = [name for name, solver in SOLVERS.items() if solver.calibrated]
DUAL = Scheme(format="dgq")
K = 150  # no multiple of any block


def normal(n: int, k: int) -> Float32Array:
    return np.random.default_rng(5).standard_normal((n, k), np.float32)


def statistics_for(solver: Solver, k: int, tokens: int = 100) -> Statistics | None:
    x = inputs(tokens, k)
    return measured(x, disturbed(x)) if solver.calibrated else None


def solved(algorithm: str, weight: Float32Array, scheme: Scheme = DUAL, tokens: int = 100) -> QuantizedWeight:
    solver = make_solver(algorithm, calibrated=True)
    return solver.solve(weight, scheme, statistics_for(solver, weight.shape[1], tokens), scale_type="float32")


def assert_stands_on_a_dual_grid(q: QuantizedWeight, weight: Float32Array, scheme: Scheme) -> None:
    assert q.codes.shape == weight.shape
    assert q.codes.max() <= TOP
    assert (q.bits, q.scale_type, q.symmetric) == (4, "float32", False)
    assert q.block_size == scheme.block_size
    assert q.row_scale is not None
    assert q.row_scale.dtype == q.scale.dtype == q.zero_point.dtype == np.float32
    assert (q.row_scale >= np.finfo(np.float32).tiny).all()
    grid = DualGrid.of(q.scale, q.zero_point, q.row_scale)
    np.testing.assert_array_equal(grid.scale, q.scale)  # so that nothing is lost when integers are stored
    np.testing.assert_array_equal(grid.zero_point, q.zero_point)
    assert grid.multiplier.min() >= 1
    assert grid.multiplier.max() <= MOST
    assert grid.offset.min() >= -REACH
    assert (grid.offset + TOP * grid.multiplier).max() <= REACH
    assert np.isfinite(q.dequantize()).all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@settings(max_examples=25)
@given(
    weight=matrices(LARGEST),
    block_size=st.sampled_from(BLOCK_SIZES),
    scale_type=st.sampled_from(SCALE_TYPES),
    tokens=st.integers(1, 100),
)
def test_any_finite_weight(
    algorithm: str, weight: Float32Array, block_size: int, scale_type: ScaleType, tokens: int
) -> None:
    solver, scheme = make_solver(algorithm, calibrated=True), Scheme(block_size=block_size, format="dgq")
    q = solver.solve(weight, scheme, statistics_for(solver, weight.shape[1], tokens), scale_type=scale_type)
    assert_stands_on_a_dual_grid(q, weight, scheme)


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("name", CALIBRATED)
def test_no_row_is_worse_than_without_data(name: str, block_size: int) -> None:
    weight, scheme = awkward(), Scheme(block_size=block_size, format="dgq")
    x = inputs(60, K, rank=3)
    statistics = measured(x, disturbed(x, 0.5))
    q = make_solver(name, calibrated=True).solve(weight, scheme, statistics, scale_type="float32")
    rival = make_solver(BEST_WITHOUT_DATA).solve(weight, scheme, None, scale_type="float32")
    assert_stands_on_a_dual_grid(q, weight, scheme)
    ours, theirs = row_losses(weight, q, statistics), row_losses(weight, rival, statistics)
    assert statistics.gram is not None
    size = ((weight @ statistics.gram) * weight).sum(axis=1)
    assert (ours <= theirs + 1e-6 * np.abs(theirs) + 1e-8 * size).all()


@pytest.mark.parametrize("block_size", [16, 32, 128])
@pytest.mark.parametrize(("name", "slack"), [("hqq", 0.0), ("gptq", 0.2)])
def test_as_close_as_blocks_with_scales_of_their_own(name: str, slack: float, block_size: int) -> None:
    weight, x = normal(64, 256), inputs(100, 256)
    forms = (Scheme(block_size=block_size, format="dgq"), Scheme(block_size=block_size))
    solver, statistics = make_solver(name, calibrated=True), measured(x, x)
    errors = []
    for scheme in forms:
        q = solver.solve(weight, scheme, statistics if solver.calibrated else None, scale_type="float32")
        change = (weight - q.dequantize()) @ (x.T if solver.calibrated else np.eye(256))
        errors.append(float((change**2).sum()))
    assert errors[0] <= (1 + slack) * errors[1]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_same_bytes_for_any_number_of_threads_and_layout(algorithm: str) -> None:
    weight, found = normal(200, K), []
    for count, given_weight in ((1, weight), (2, np.asfortranarray(weight))):
        with limited_threads(count):
            q = solved(algorithm, given_weight, tokens=600)
        assert q.row_scale is not None
        found.append([array.tobytes() for array in (q.codes, q.scale, q.zero_point, q.row_scale)])
    assert found[0] == found[1]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_dead_inputs(algorithm: str) -> None:
    solver, weight, x = make_solver(algorithm, calibrated=True), awkward(), inputs(200, K)
    x[:, [0, 3, 70, 149, *range(32, 64)]] = 0
    seen = measured(x, disturbed(x)) if solver.calibrated else Statistics(tokens=0, mean_square=(x**2).mean(axis=0))
    assert_stands_on_a_dual_grid(solver.solve(weight, DUAL, seen, scale_type="float32"), weight, DUAL)
    dead = Statistics(tokens=5, gram=np.zeros((K, K)), cross=np.zeros((K, K)), mean_square=np.zeros(K))
    assert_stands_on_a_dual_grid(solver.solve(weight, DUAL, dead, scale_type="float32"), weight, DUAL)


def test_what_lies_on_a_dual_grid_stays_there() -> None:
    rng = np.random.default_rng(0)
    multiplier, codes = rng.integers(1, 9, (40, 4, 1)), rng.integers(0, 16, (40, 4, 32))
    codes[:, :, 0], codes[:, :, 1] = 0, 15
    multiplier[:, 0] = 8
    values = (multiplier * codes + rng.integers(-7, 8, (40, 4, 1)) - 60).reshape(40, 128)
    values[:, 0] = -127  # the first block, of multiplier 8, begins where int8 does
    values[:, 1:32] = -127 + 8 * codes.reshape(40, 128)[:, 1:32]
    weight = (values * np.float32(2.0**-7)).astype(np.float32)
    error = ((solved("hqq", weight).dequantize() - weight) ** 2).sum() / (weight**2).sum()
    assert error < 2e-3


def test_descent_only_ever_improves() -> None:
    weight, x = normal(70, K), inputs(300, K)
    known = curvature(measured(x, disturbed(x)), 0.1, 0.1, 0.1, True)
    draft = on_fitted_grid(weight, known.importance, DUAL, "float32")
    losses = [objective(draft, known)]
    for _ in range(3):
        lanes = Lanes.of(draft)
        descend_dual(lanes, lanes.error(), known.hessian, 64)
        lanes.store()
        losses.append(objective(draft, known))
    for before, after in pairwise(losses):
        assert (after <= before * (1 + 1e-5)).all()
    assert losses[-1].sum() < 0.8 * losses[0].sum()


@settings(max_examples=60)
@given(seed=st.integers(0, 1000), multiplier=st.integers(1, MOST), start=st.integers(-REACH, REACH - TOP))
def test_integers_of_a_block_are_the_best_near_the_real_optimum(seed: int, multiplier: int, start: int) -> None:
    rng, offset = np.random.default_rng(seed), min(start, REACH - TOP * multiplier)
    root = rng.standard_normal((8, 12))
    hessian, codes, slope = root.T @ root, rng.integers(0, 16, 12).astype(float), 20 * rng.standard_normal(12)
    squares, mixed, pull = (float(codes @ vector) for vector in (hessian @ codes, hessian.sum(axis=0), slope))

    def loss(m: float, b: float) -> float:
        move = (m - multiplier) * codes + (b - offset)
        return float(move @ hessian @ move + 2 * move @ slope)

    present = np.float32(multiplier), np.float32(offset)
    m, b = map(float, _best_integers(*present, squares, mixed, float(hessian.sum()), pull, float(slope.sum())))
    assert 1 <= m <= MOST
    assert -REACH <= b <= REACH - TOP * m
    others = [loss(multiplier, other) for other in range(-REACH, REACH - TOP * multiplier + 1)]
    assert loss(m, b) <= min(others) + 1e-4 * squares


def test_rows_of_another_draft_are_taken_over_with_their_grids() -> None:
    target = normal(5, 64)
    draft, other = (on_fitted_grid(t, np.ones(64, np.float32), DUAL, "float32") for t in (target, 2 * target))
    assert_stands_on_a_dual_grid(draft.finished(()), target, DUAL)
    draft.take(np.arange(5) > 2, other)
    assert_stands_on_a_dual_grid(draft.finished(()), target, DUAL)
    assert np.array_equal(draft.dequantized()[3:], other.dequantized()[3:])
