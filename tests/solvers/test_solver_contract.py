"""What every algorithm does: a new one is tested by its line in the table `SOLVERS`."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxfq.arrays import Float32Array
from onnxfq.errors import UsageError
from onnxfq.quantized import QuantizedWeight
from onnxfq.scheme import BITS, Granularity, ScaleType, Scheme
from onnxfq.solvers import BEST_WITHOUT_DATA, SOLVERS, Solver, algorithm_text, make_solver
from onnxfq.statistics import Statistics
from onnxfq.system.threads import limited_threads
from support.calibration import disturbed, inputs, measured, row_losses
from support.pairs import pairs
from support.weights import (
    GRANULARITIES,
    LARGEST,
    SCALE_TYPES,
    assert_stands_on_its_grid,
    awkward,
    block_errors,
    matrices,
    schemes,
)

ALGORITHMS = (*SOLVERS, "awq:codes=gptq")
CALIBRATED = [name for name, solver in SOLVERS.items() if solver.calibrated]
WITHOUT_DATA = [name for name, solver in SOLVERS.items() if not solver.calibrated]
SLOP = 1 + 1e-12  # sums of squares in another order
SHAPES = ((1, 1), (1, 17), (3, 16), (2, 33), (5, 255), (4, 257), (70, 2))
K = 150  # no multiple of any block


def solver_of(algorithm: str) -> Solver:
    return make_solver(algorithm, calibrated=True)


def statistics_for(solver: Solver, k: int, tokens: int = 100) -> Statistics | None:
    """Of inputs as earlier stages leave them; None for algorithms without data."""
    x = inputs(tokens, k)
    return measured(x, disturbed(x)) if solver.calibrated else None


def normal(n: int, k: int) -> Float32Array:
    return np.random.default_rng(5).standard_normal((n, k), np.float32)


# What its table line says


@pytest.mark.parametrize("name", SOLVERS)
def test_it_is_what_its_table_line_says(name: str) -> None:
    solver = solver_of(name)
    assert type(solver) is SOLVERS[name]
    assert solver.name == name
    assert algorithm_text(solver) == name
    assert solver.weights_per_second > 0
    assert not (solver.calibrated and solver.weighs_inputs)
    assert solver.calibrated or not solver.moves_bias


@pytest.mark.parametrize("name", CALIBRATED)
def test_calibrated_it_wants_data(name: str) -> None:
    with pytest.raises(UsageError, match=rf"{name} needs calibration data .*algorithm={BEST_WITHOUT_DATA}"):
        make_solver(name)
    for nothing in (None, Statistics(tokens=0), Statistics(tokens=9, mean_square=np.ones(32))):
        with pytest.raises(ValueError, match=rf"{name} needs Statistics\.gram"):
            solver_of(name).solve(np.ones((1, 32), np.float32), Scheme(), nothing, scale_type="float32")


@pytest.mark.parametrize("name", WITHOUT_DATA)
def test_without_data_none_and_empty_are_the_same(name: str) -> None:
    assert type(make_solver(name)) is SOLVERS[name]
    solved = [
        make_solver(name).solve(awkward(), Scheme(), empty, scale_type="float16")
        for empty in (None, Statistics(tokens=0))
    ]
    assert content(solved[0]) == content(solved[1])


# What comes out


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@settings(max_examples=40)
@given(weight=matrices(LARGEST), scheme=schemes(), scale_type=st.sampled_from(SCALE_TYPES), tokens=st.integers(1, 100))
def test_any_finite_weight(
    algorithm: str, weight: Float32Array, scheme: Scheme, scale_type: ScaleType, tokens: int
) -> None:
    solver = solver_of(algorithm)
    q = solver.solve(weight, scheme, statistics_for(solver, weight.shape[1], tokens), scale_type=scale_type)
    assert_stands_on_its_grid(q, weight, scheme, scale_type)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_any_shape(algorithm: str) -> None:
    solver = solver_of(algorithm)
    for shape, bits, granularity, symmetric in pairs(SHAPES, BITS, GRANULARITIES, (False, True)):
        weight, scheme = normal(*shape), Scheme(bits, granularity, symmetric)
        q = solver.solve(weight, scheme, statistics_for(solver, shape[1]), scale_type="float16")
        assert_stands_on_its_grid(q, weight, scheme, "float16")


@pytest.mark.parametrize("scale_type", SCALE_TYPES)
@pytest.mark.parametrize(("bits", "granularity", "symmetric"), list(product(BITS, GRANULARITIES, (False, True))))
@pytest.mark.parametrize("name", [name for name in WITHOUT_DATA if name != "rtn"])
def test_no_block_is_worse_than_with_rtn(
    name: str, bits: int, granularity: int | Granularity, symmetric: bool, scale_type: ScaleType
) -> None:
    weight, scheme = awkward(), Scheme(bits, granularity, symmetric)
    rtn, ours = (make_solver(n).solve(weight, scheme, None, scale_type=scale_type) for n in ("rtn", name))
    assert_stands_on_its_grid(ours, weight, scheme, scale_type)
    assert (block_errors(weight, ours, scheme) <= block_errors(weight, rtn, scheme) * SLOP).all()


@pytest.mark.parametrize("name", [name for name in WITHOUT_DATA if name != "rtn"])
@settings(max_examples=50)
@given(weight=matrices(2.0**60), scheme=schemes(), scale_type=st.sampled_from(SCALE_TYPES))
def test_no_block_of_anything_is_worse_than_with_rtn(
    name: str, weight: Float32Array, scheme: Scheme, scale_type: ScaleType
) -> None:
    rtn, ours = (make_solver(n).solve(weight, scheme, None, scale_type=scale_type) for n in ("rtn", name))
    assert (block_errors(weight, ours, scheme) <= block_errors(weight, rtn, scheme) * SLOP).all()


@pytest.mark.parametrize("scale_type", SCALE_TYPES)
@pytest.mark.parametrize(("bits", "granularity", "symmetric"), list(product(BITS, GRANULARITIES, (False, True))))
@pytest.mark.parametrize("name", CALIBRATED)
def test_no_row_is_worse_than_without_data(
    name: str, bits: int, granularity: int | Granularity, symmetric: bool, scale_type: ScaleType
) -> None:
    weight, scheme = awkward(), Scheme(bits, granularity, symmetric)
    x = inputs(60, K, rank=3)
    statistics = measured(x, disturbed(x, 0.5))
    q = solver_of(name).solve(weight, scheme, statistics, scale_type=scale_type)
    assert_stands_on_its_grid(q, weight, scheme, scale_type)
    ours = row_losses(weight, q, statistics)
    theirs = row_losses(
        weight, make_solver(BEST_WITHOUT_DATA).solve(weight, scheme, None, scale_type=scale_type), statistics
    )
    if granularity == "tensor":
        ours, theirs = ours.sum(keepdims=True), theirs.sum(keepdims=True)
    assert statistics.gram is not None
    size = ((weight @ statistics.gram) * weight).sum(axis=1)
    assert (ours <= theirs + 1e-6 * np.abs(theirs) + 1e-8 * (size.sum() if granularity == "tensor" else size)).all()


# What must not matter


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_layout_and_inputs_are_left_alone(algorithm: str) -> None:
    solver, weight = solver_of(algorithm), awkward()
    statistics = statistics_for(solver, K)
    given: list[npt.NDArray[np.floating]] = [weight, *arrays(statistics)]
    before = [array.copy() for array in given]
    q = solver.solve(weight, Scheme(), statistics, scale_type="float32")
    turned = solver.solve(np.asfortranarray(weight), Scheme(), statistics, scale_type="float32")
    assert content(q) == content(turned)
    if statistics is not None:
        solver.input_scale([weight], Scheme(), statistics, scale_type="float32")
    for was, now in zip(before, given, strict=True):
        np.testing.assert_array_equal(was, now)


@pytest.mark.parametrize(
    ("algorithm", "granularity", "symmetric"),
    [*product(SOLVERS, GRANULARITIES, (False, True)), ("awq:codes=gptq", 32, False)],
)
def test_same_bytes_for_any_number_of_threads(algorithm: str, granularity: int | Granularity, symmetric: bool) -> None:
    solver, scheme, weight = solver_of(algorithm), Scheme(4, granularity, symmetric), normal(200, K)
    statistics = statistics_for(solver, K, tokens=600)
    solved = []
    for count in (1, 2):
        own = None if statistics is None else replace(statistics)  # nothing derived from it is left
        with limited_threads(count):
            q = solver.solve(weight, scheme, own, scale_type="float16")
            scale = None if own is None else solver.input_scale([weight], scheme, own, scale_type="float16")
        solved.append((*content(q), b"" if scale is None else scale.tobytes()))
    assert solved[0] == solved[1]


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("name", CALIBRATED)
def test_where_no_input_ever_comes_data_change_nothing(name: str, granularity: int | Granularity) -> None:
    weight, scheme = awkward(), Scheme(4, granularity)
    dead = Statistics(tokens=5, gram=np.zeros((K, K)), cross=np.zeros((K, K)))
    ours, theirs = (
        s.solve(weight, scheme, dead, scale_type="float16") for s in (solver_of(name), make_solver(BEST_WITHOUT_DATA))
    )
    np.testing.assert_array_equal(ours.codes, theirs.codes)
    np.testing.assert_array_equal(ours.scale, theirs.scale)
    assert solver_of(name).input_scale([weight], scheme, dead, scale_type="float16") is None


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_some_inputs_are_dead(algorithm: str, granularity: int | Granularity) -> None:
    solver, weight, x = solver_of(algorithm), awkward(), inputs(200, K)
    x[:, [0, 3, 70, 149, *range(32, 64)]] = 0
    seen = measured(x, disturbed(x)) if solver.calibrated else Statistics(tokens=0, mean_square=(x**2).mean(axis=0))
    for bits in BITS:
        scheme = Scheme(bits, granularity)
        q = solver.solve(weight, scheme, seen, scale_type="float32")
        assert_stands_on_its_grid(q, weight, scheme, "float32")


def content(q: QuantizedWeight) -> tuple[bytes, bytes, bytes]:
    return q.codes.tobytes(), q.scale.tobytes(), q.zero_point.tobytes()


def arrays(statistics: Statistics | None) -> list[npt.NDArray[np.floating]]:
    given = (statistics.gram, statistics.cross) if statistics else ()
    return [array for array in given if array is not None]
