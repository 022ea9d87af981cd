from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxfq.arrays import Float32Array
from onnxfq.errors import UsageError
from onnxfq.quantized import QuantizedWeight
from onnxfq.scheme import BITS, Granularity, ScaleType, Scheme
from onnxfq.solvers.curvature import curvature
from onnxfq.solvers.draft import on_fitted_grid
from onnxfq.solvers.draft import row_losses as row_objectives
from onnxfq.solvers.gptq import Gptq
from onnxfq.solvers.hqq import Hqq
from onnxfq.solvers.rivals import keep_best_rows
from onnxfq.solvers.rows import row_threads
from onnxfq.solvers.rtn import Rtn
from onnxfq.solvers.towards import _code, solve_towards
from onnxfq.statistics import Statistics
from support.calibration import Float64Array, disturbed, inputs, measured, objective, row_losses
from support.weights import GRANULARITIES, SCALE_TYPES, assert_stands_on_its_grid, awkward, matrices, schemes

K = 150  # no multiple of any block

# Fits the calibration data, which tests look at, better than the defaults do.
LOOSE = Gptq(damping=0.05, refit_damping=0.01, recode=0)


def problem(n: int = 40, k: int = K) -> tuple[Float32Array, Statistics]:
    x = inputs(1000, k)
    weight = np.random.default_rng(5).standard_normal((n, k), np.float32) * np.float32(0.05)
    return weight, measured(x, disturbed(x), tokens=50_000)


def loss(weight: Float32Array, q: QuantizedWeight, statistics: Statistics) -> float:
    """Of the whole weight, above the least that real numbers reach: what quantization costs."""
    assert statistics.gram is not None
    drift = 0 if statistics.cross is None else weight @ (statistics.cross - statistics.gram)
    least = (drift * np.linalg.solve(statistics.gram, np.transpose(drift)).T).sum() if np.ndim(drift) else 0.0
    return float(row_losses(weight, q, statistics).sum() + least)


@pytest.mark.parametrize(
    "wrong",
    [
        {"damping": -0.1},
        {"refit_damping": float("nan")},
        {"target_damping": float("inf")},
        {"alpha": 1.5},
        {"refine": -1},
        {"recode": -1},
        {"column_batch": 0},
    ],
)
def test_senseless_settings(wrong: dict[str, float]) -> None:
    field, value = next(iter(wrong.items()))
    with pytest.raises(UsageError, match=rf"got {field}={value}"):
        replace(Gptq(), **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize(("granularity", "symmetric"), list(product(GRANULARITIES, (False, True))))
@pytest.mark.parametrize("bits", BITS)
def test_much_better_than_without_data(
    bits: int, granularity: int | Granularity, symmetric: bool, act_order: bool
) -> None:
    weight, statistics = problem()
    scheme = Scheme(bits, granularity, symmetric)
    rtn, hqq, gptq = (
        s.solve(weight, scheme, statistics, scale_type="float16")
        for s in (Rtn(), Hqq(), Gptq(alpha=1, target_damping=0.05, damping=0.1, act_order=act_order))
    )
    assert_stands_on_its_grid(gptq, weight, scheme, "float16")
    losses = [loss(weight, q, statistics) for q in (gptq, hqq, rtn)]
    assert losses[0] < 0.5 * losses[1]
    assert losses[1] < losses[2] * (1.01 if bits == 8 else 1)
    assert losses[0] > 0


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("bits", "granularity"), list(product((2, 4), GRANULARITIES)))
def test_every_step_helps(bits: int, granularity: int | Granularity, symmetric: bool) -> None:
    weight, statistics = problem()
    assert statistics.gram is not None
    scheme, energy = Scheme(bits, granularity, symmetric), Statistics(tokens=0, mean_square=statistics.gram.diagonal())
    steps = [Hqq().solve(weight, scheme, energy, scale_type="float16")]
    steps += [
        solver.solve(weight, scheme, statistics, scale_type="float16")
        for solver in (
            replace(LOOSE, alpha=0, refine=0),
            *(replace(LOOSE, refine=rounds) for rounds in (0, 1, 2, 6)),
        )
    ]
    losses = [loss(weight, q, statistics) for q in steps]
    assert all(after < before for before, after in pairwise(losses[:4])), losses
    assert all(after < before * 1.002 for before, after in pairwise(losses[3:])), losses


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_uncorrelated_inputs_leave_nothing_but_the_weighted_grid(
    granularity: int | Granularity, symmetric: bool
) -> None:
    weight, scheme = awkward(), Scheme(4, granularity, symmetric)
    energy = np.random.default_rng(0).uniform(0.5, 2, K)
    energy /= energy.mean()
    q = Gptq(refine=0).solve(weight, scheme, Statistics(tokens=9, gram=np.diag(energy)), scale_type="float16")
    hqq = Hqq().solve(weight, scheme, Statistics(tokens=9, mean_square=energy), scale_type="float16")
    losses = [row_losses(weight, one, Statistics(tokens=9, gram=np.diag(energy))) for one in (q, hqq)]
    same = (q.codes == hqq.codes).all(axis=1)
    assert same.sum() >= len(weight) - 3
    assert (losses[0] <= losses[1] * (1 + 1e-5)).all()  # where the rows differ, the grid without weights was better


def naive(weight: Float32Array, gram: Float64Array, grid: QuantizedWeight, damping: float) -> Float64Array:
    """GPTQ as its paper describes it, one column at a time."""
    k = weight.shape[1]
    inverse = np.linalg.inv(gram + damping * gram.diagonal().mean() * np.eye(k))
    factor = np.linalg.cholesky(inverse).T
    w = weight.astype(np.float64)
    codes = np.empty_like(w)
    for j in range(k):
        step, zero = grid.scale[:, j // grid.block_size], grid.zero_point[:, j // grid.block_size].astype(np.float64)
        codes[:, j] = np.clip(np.rint(w[:, j] / step) + zero, 0, 2**grid.bits - 1)
        error = (w[:, j] - step * (codes[:, j] - zero)) / factor[j, j]
        w[:, j:] -= np.outer(error, factor[j, j:])
    return codes


@pytest.mark.parametrize("column_batch", [1, 16, 128, 1000])
@pytest.mark.parametrize("granularity", [16, 128, "channel"])
def test_codes_are_those_of_the_paper(granularity: int | Granularity, column_batch: int) -> None:
    weight, statistics = problem(80, 200)
    statistics = replace(statistics, cross=None)
    assert statistics.gram is not None
    solver = replace(LOOSE, act_order=False, refine=0, column_batch=column_batch)
    q = solver.solve(weight, Scheme(4, granularity), statistics, scale_type="float32")
    expected = naive(weight, statistics.gram, q, 0.05)
    assert (q.codes != expected).mean() < 0.005


@settings(max_examples=60)
@given(
    weight=matrices(1e6),
    scheme=schemes(),
    scale_type=st.sampled_from(SCALE_TYPES),
    tokens=st.integers(1, 100),
    column_batch=st.integers(1, 200),
)
def test_any_weight(
    weight: Float32Array, scheme: Scheme, scale_type: ScaleType, tokens: int, column_batch: int
) -> None:
    x = inputs(tokens, weight.shape[1], rank=2)
    q = Gptq(column_batch=column_batch).solve(weight, scheme, measured(x, disturbed(x)), scale_type=scale_type)
    assert_stands_on_its_grid(q, weight, scheme, scale_type)


@pytest.mark.parametrize("block_size", [16, 32, 128])
@pytest.mark.parametrize("bits", [2, 4])
def test_the_short_search_for_grids_leaves_no_more_error_than_the_full_one(bits: int, block_size: int) -> None:
    weight, statistics = problem(64)
    known, scheme = curvature(statistics, 0.1, 0.1, 0.1, True), Scheme(bits, block_size)
    with row_threads(len(weight)) as each:
        ours = solve_towards(weight, known, scheme, "float32", 2, each)
        full = on_fitted_grid(weight, known.importance, scheme, "float32")
        _code(full, known, 2, 128, each)
    losses = [objective(draft, known).sum() for draft in (ours, full)]
    assert losses[0] < 1.03 * losses[1]


def test_a_sample_of_rows_becomes_what_it_does_among_all() -> None:
    weight, statistics = problem(300)
    known, rows, solved = curvature(statistics, 0.1, 0.1, 0.1, True), np.arange(300) % 5 == 0, []
    for part in (weight, np.ascontiguousarray(weight[rows])):
        with row_threads(len(part)) as each:
            solved.append(solve_towards(part, known, Scheme(4, 32), "float32", 2, each).codes)
    assert (solved[0][rows] != solved[1]).mean() < 0.01  # but for rounding errors of products of other sizes


def test_rows_that_lose_are_found_among_many() -> None:
    weight, statistics = problem(200)
    known = curvature(statistics, 0.1, 0.1, 0.1, True)
    with row_threads(len(weight)) as each:
        draft = solve_towards(weight, known, Scheme(), "float32", 1, each)
        spoiled = np.arange(200) % 4 == 0
        draft.codes[spoiled] = 15 - draft.codes[spoiled]
        keep_best_rows(draft, weight, None, known, each)
        rivals = [on_fitted_grid(weight, h, Scheme(), "float32") for h in (known.importance, np.ones(K, np.float32))]
        ours, *theirs = (row_objectives(one, weight, None, known, each) for one in (draft, *rivals))
    assert (ours <= np.minimum(*theirs) * (1 + 1e-6)).all()
