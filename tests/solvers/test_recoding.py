from __future__ import annotations

import numpy as np
import pytest

from onnxfq.scheme import Granularity, Scheme
from onnxfq.solvers.curvature import Curvature, curvature
from onnxfq.solvers.draft import Draft
from onnxfq.solvers.gptq import Gptq
from onnxfq.solvers.recoding import recode_parts
from onnxfq.solvers.rows import row_threads
from onnxfq.solvers.towards import solve_towards
from onnxfq.statistics import Statistics
from onnxfq.system.threads import limited_threads
from support.calibration import inputs, measured, objective
from support.weights import GRANULARITIES, assert_stands_on_its_grid

N, K = 80, 150  # more rows than a chunk, no whole blocks


def problem(scheme: Scheme, scale: float = 0.05) -> tuple[Draft, Curvature]:
    """Codes as descent leaves them."""
    target = np.random.default_rng(5).standard_normal((N, K), np.float32) * np.float32(scale)
    x = inputs(1000, K)
    known = curvature(measured(x, x), 0.01, 0.01, 0.01, act_order=True)
    with row_threads(N) as each:
        return solve_towards(target, known, scheme, "float16", 2, each), known


def recoded(draft: Draft, known: Curvature, times: int) -> Draft:
    after = draft.copy()
    with row_threads(N) as each:
        recode_parts(after, known, times, 128, each)
    return after


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("bits", [2, 4])
def test_no_row_gets_worse_and_all_together_get_better(
    bits: int, granularity: int | Granularity, symmetric: bool
) -> None:
    draft, known = problem(Scheme(bits, granularity, symmetric))
    before, some, many = (objective(recoded(draft, known, times), known) for times in (0, 3, 12))
    assert (some <= before * 1.0001).all()
    assert (many <= some * 1.0001).all()
    least = 0.99 if bits == 2 else 0.998
    assert some.sum() < least * before.sum()
    assert many.sum() < least * some.sum()


@pytest.mark.parametrize("block_size", [32, 128])
def test_dual_grids_get_better_too(block_size: int) -> None:
    draft, known = problem(Scheme(block_size=block_size, format="dgq"))
    after = recoded(draft, known, 6)
    assert after.row_scale is not None
    assert objective(after, known).sum() < 0.99 * objective(draft, known).sum()
    assert (objective(after, known) <= objective(draft, known) * 1.0001).all()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_no_size_of_weights_makes_numbers_that_are_none(scale: float) -> None:
    draft, known = problem(Scheme(2, 32), scale)
    after = recoded(draft, known, 3)
    assert np.isfinite(after.dequantized()).all()


def test_one_column_and_columns_without_any_input() -> None:
    weight = np.random.default_rng(0).standard_normal((9, 40), np.float32)
    gram = np.diag(np.r_[np.ones(5), np.zeros(35)])
    for k in (1, 40):
        statistics = Statistics(tokens=100, gram=gram[:k, :k])
        q = Gptq(recode=5).solve(weight[:, :k], Scheme(2, 32), statistics, scale_type="float32")
        assert_stands_on_its_grid(q, weight[:, :k], Scheme(2, 32), "float32")


def test_same_bytes_for_any_number_of_threads() -> None:
    draft, known = problem(Scheme(2, 32))
    found = []
    for count in (1, 2):
        with limited_threads(count):
            after = recoded(draft, known, 4)
        found.append([array.tobytes() for array in (after.codes, after.scale, after.zero_point)])
    assert found[0] == found[1]


def test_gptq_does_it_where_bits_are_few() -> None:
    x = inputs(1000, K)
    weight, statistics = np.random.default_rng(5).standard_normal((N, K), np.float32), measured(x, x)
    for bits, times in ((2, 24), (4, 24), (8, 0)):
        asked, default, without = (
            solver.solve(weight, Scheme(bits, 32), statistics, scale_type="float16")
            for solver in (Gptq(recode=times), Gptq(), Gptq(recode=0))
        )
        np.testing.assert_array_equal(asked.codes, default.codes)
        assert np.array_equal(without.codes, default.codes) == (times == 0)


def test_estimates_know_that_it_takes_longer() -> None:
    tiny, small, large = (384, 384), (384, 1536), (4096, 4096)
    assert Gptq().work(Scheme(4, 32), *large) == Gptq(recode=0).work(Scheme(2, 32), *small) == 1
    assert Gptq().work(Scheme(8, 32), *small) == Gptq(refine=0).work(Scheme(4, 32), *small) == 1
    assert Gptq().work(Scheme(4, 32), *small) == Gptq(recode=2).work(Scheme(4, 32), *large) == 1.5
    assert Gptq().work(Scheme(4, 32), *tiny) == Gptq().work(Scheme(2, 32), *large)
    assert Gptq().work(Scheme(2, 32), *large) == Gptq(recode=24).work(Scheme(4, 32), *large) > 4
