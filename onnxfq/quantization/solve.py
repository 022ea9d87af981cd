"""Solving weights, here or by workers: it knows no graph and no report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np

from onnxfq.arrays import Float32Array, Float64Array
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
from onnxfq.solvers.rtn import Rtn
from onnxfq.statistics import Statistics

_FEW_BITS = 4
_ROWS = 128  # of a stage, on which settings are chosen


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
        tasks[index] = _task(
            p, _solver_of(p, solver), None if known is None else Statistics(tokens=0, mean_square=known)
        )
    return tasks


def _solver_of(p: Planned, solver: Solver) -> Solver:
    """What chooses the codes of a target: 8 bits for others than products are rounded to nearest.

    A grid that fits most weights better by cutting the largest off makes the outputs worse where codes are so many:
    relative MSE .0012 instead of .0017 of a text detector, .0049 instead of .0052 of a voice detector.
    """
    return Rtn() if p.is_stored and p.scheme.bits > _FEW_BITS else solver


def tuned(
    planned: Mapping[int, Planned],
    solver: Solver,
    statistics: Statistics,
    *,
    biased: Collection[int],
    input_scale: Float64Array | None,
    drifting: int | None,
) -> Solver:
    """The solver with what it leaves open chosen for a stage, on some rows of its weights, each as many.

    Args:
        planned: the stage's targets by position.
        solver: a calibrated one.
        statistics: of its inputs, as they are.
        biased: targets behind which there is a bias that the solver is to shift.
        input_scale: [K], what the inputs will be divided by.
        drifting: the target whose product is added to the stage's residual.
    """
    if statistics.held is None or not planned:
        return solver
    known = _scaled(statistics, input_scale)
    if drifting not in planned:
        known = known.without_drift()
    if all(index in biased for index in planned):
        known = known.about_means()
    samples = list[Float32Array]()
    for index in sorted(planned, key=lambda index: index != drifting):
        n = planned[index].target.matrix.n
        rows = np.unique(np.linspace(0, n - 1, min(n, -(-_ROWS // len(planned)))).astype(np.intp))
        if index == drifting:
            known = known.of_rows(rows)
        weight = planned[index].target.load()[rows]
        samples.append(weight if input_scale is None else weight * input_scale.astype(np.float32))
    return solver.tuned(samples, known)


@contextmanager
def tasks_with_data(
    planned: Mapping[int, Planned],
    solver: Solver,
    statistics: Statistics,
    folder: Path | None,
    *,
    biased: Collection[int],
    input_scale: Float64Array | None,
    drifting: int | None,
) -> Iterator[dict[int, WeightTask]]:
    """What to solve of a stage.

    Args:
        planned: its targets by position.
        solver: a calibrated one, `tuned` for the stage.
        statistics: of its inputs, as they are.
        folder: where statistics are put for workers; None where they stay in this process.
        biased: targets behind which there is a bias that the solver is to shift.
        input_scale: [K], what the inputs will be divided by.
        drifting: the target whose product is added to the stage's residual.
    """
    known = _scaled(statistics, input_scale)
    with nullcontext(known) if folder is None else dumped(folder, known) as given:
        yield {
            i: _task(p, solver, given, centred=i in biased, input_scale=input_scale, drifts=i == drifting)
            for i, p in planned.items()
        }


def _scaled(statistics: Statistics, input_scale: Float64Array | None) -> Statistics:
    return statistics if input_scale is None else statistics.scaled(input_scale)


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
    drifts: bool = False,
) -> WeightTask:
    kernel, matrix = p.kernel, p.target.matrix
    return WeightTask(
        matrix, kernel.activation_type, p.storage, kernel, solver, p.scheme, statistics, centred, input_scale, drifts
    )
