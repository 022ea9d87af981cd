"""Solving weights, here or by workers: it knows no graph and no report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from onnxfq.arrays import Float64Array
from onnxfq.calibration.pieces import PART_OF_MEMORY
from onnxfq.executors.executor import Workers
from onnxfq.executors.serialization import dumped
from onnxfq.graph import Scratch
from onnxfq.packing import row_chunks
from onnxfq.quantization.assign import Planned
from onnxfq.quantization.read_ahead import read_ahead
from onnxfq.quantization.solved_weight import SolvedWeight, WeightTask, solve_weight
from onnxfq.quantized import weight_range
from onnxfq.solvers import BEST_WITHOUT_DATA, Solver, make_solver
from onnxfq.statistics import Statistics


def solve(tasks: Mapping[int, WeightTask], workers: Workers, memory: int) -> Iterator[tuple[int, SolvedWeight | None]]:
    """Solve weights, each read while the one before it is solved, or each by whichever worker is free.

    Args:
        tasks: by the position of the target.
        workers: who solves.
        memory: bytes that a run may keep.

    Yields:
        Each position, in order, with its weight; None for one that holds NaN or infinity.
    """
    most = memory // PART_OF_MEMORY
    if workers.elsewhere:
        solved = workers.in_order(solve_weight, tasks.values(), most)
    else:
        solved = (solve_weight(task, value) for task, value in read_ahead(tasks.values(), most))
    yield from zip(tasks, solved, strict=True)


def without_data(solver: Solver) -> Solver:
    """What the user chose, or, where that needs data, the best without."""
    return make_solver(BEST_WITHOUT_DATA) if solver.calibrated else solver


def tasks_without_data(
    planned: Mapping[int, Planned], solver: Solver, mean_squares: Mapping[int, Float64Array]
) -> dict[int, WeightTask]:
    """What to solve of targets without data: as asked for, or because calibration does not reach them.

    Args:
        planned: by position.
        solver: one that needs no data; see `without_data`.
        mean_squares: [K], of the inputs of those targets whose graph tells them.
    """
    tasks = {}
    for index, p in planned.items():
        known = mean_squares.get(index)
        tasks[index] = _task(p, solver, None if known is None else Statistics(tokens=0, mean_square=known))
    return tasks


@contextmanager
def tasks_with_data(
    planned: Mapping[int, Planned],
    solver: Solver,
    statistics: Statistics,
    folder: Path | None,
    *,
    biased: Collection[int],
    input_scale: Float64Array | None,
) -> Iterator[dict[int, WeightTask]]:
    """What to solve of a stage.

    Args:
        planned: its targets by position.
        solver: a calibrated one.
        statistics: of its inputs, as they are.
        folder: where statistics are put for workers; None where they stay in this process.
        biased: targets behind which there is a bias that the solver is to shift.
        input_scale: [K], what the inputs will be divided by.
    """
    known = statistics if input_scale is None else statistics.scaled(input_scale)
    if folder is None:
        yield {i: _task(p, solver, known, centred=i in biased, input_scale=input_scale) for i, p in planned.items()}
        return
    with dumped(folder, known) as file:
        yield {i: _task(p, solver, file, centred=i in biased, input_scale=input_scale) for i, p in planned.items()}


def input_scale(
    planned: Sequence[Planned], solver: Solver, statistics: Statistics, *, centred: bool
) -> Float64Array | None:
    """What a stage's inputs are to be divided by, [K], where the solver wants that; judged by its usual scheme.

    Args:
        planned: the stage's targets.
        solver: the calibrated one.
        statistics: of the inputs.
        centred: whether there is a bias behind each of them.
    """
    weights = [p.target.load() for p in planned]
    known = statistics.centred() if centred else statistics
    ((scheme, _),) = Counter(p.scheme for p in planned).most_common(1)
    return solver.input_scale(weights, scheme, known, scale_type=planned[0].target.scale_type)


def damaged(planned: Iterable[Planned]) -> Iterator[str]:
    """The names of weights that hold NaN or infinity: found before long work begins."""
    scratch = Scratch()
    for p in planned:
        weight = p.target.matrix
        value = weight.read(scratch)
        total = sum(weight_range(weight.rows(value, rows)).sum_squares for rows in row_chunks(weight.n, weight.k))
        if not total < float("inf"):
            yield p.target.weight.leaf.name


def _task(
    p: Planned,
    solver: Solver,
    statistics: Statistics | Path | None,
    *,
    centred: bool = False,
    input_scale: Float64Array | None = None,
) -> WeightTask:
    kernel = p.kernel
    return WeightTask(
        p.target.matrix, kernel.activation_type, p.storage, kernel, solver, p.scheme, statistics, centred, input_scale
    )
