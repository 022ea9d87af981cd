"""Solve and rewrite, one stage after another: each weight is packed, stored and forgotten before the next is read."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxfq.arrays import Array, Float64Array
from onnxfq.calibration.pieces import PART_OF_MEMORY
from onnxfq.calibration.stages import Stage
from onnxfq.errors import ModelError
from onnxfq.executors.serialization import dumped, forget_loaded
from onnxfq.graph import Constant, Scratch, TensorFile
from onnxfq.packing import row_chunks
from onnxfq.progress import Progress
from onnxfq.quantization.calibrate import Calibration, rounded_in
from onnxfq.quantization.find import Planned
from onnxfq.quantization.job import Job
from onnxfq.quantization.read_ahead import read_ahead
from onnxfq.quantization.solved_weight import (
    SolvedWeight,
    WeightTask,
    from_arrays,
    solve_weight,
    to_arrays,
)
from onnxfq.quantization.summary import describe
from onnxfq.quantization.verify import Expected
from onnxfq.quantized import weight_range
from onnxfq.reports.report import TargetReport
from onnxfq.rules import Stored, expected_mean_square, fold, rewrite, shift_bias, store
from onnxfq.solvers import AUTO, Solver, make_solver
from onnxfq.statistics import Statistics

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Done:
    """A stored weight, for the next target that shares it."""

    stored: Stored
    report: TargetReport
    digest: str


def solve(
    job: Job, tensor_file: TensorFile, progress: Progress, calibration: Calibration | None = None
) -> tuple[list[TargetReport], list[Expected]]:
    """Quantize every planned weight and put the quantized nodes into the graph.

    Args:
        job: the model and what was decided; its graph is changed.
        tensor_file: takes the new tensors.
        progress: told about every step.
        calibration: for solvers that need data.

    Returns:
        What became of each target, and what its node must hold in the written file.

    Raises:
        ModelError: weights that are not finite, all of them listed.
    """
    work = _Solving(job, tensor_file, progress, calibration)
    if calibration:
        work.refuse_damaged()  # before the long work
        for position, stage in enumerate(calibration.reached):
            work.calibrated(position, stage, calibration)
    unreached = [stage.targets[0] for stage in calibration.stages if not stage.source] if calibration else None
    work.plain(range(len(job.planned)) if unreached is None else unreached)
    return work.finish()


class _Solving:
    """A run: what is done, and what was found on the way."""

    def __init__(self, job: Job, tensor_file: TensorFile, progress: Progress, calibration: Calibration | None) -> None:
        self._job, self._spool, self._progress, self._calibration = job, tensor_file, progress, calibration
        self._done: dict[Hashable, _Done] = {}
        self._reports: dict[int, TargetReport] = {}
        self._meant: dict[int, Expected] = {}
        self._abandoned: list[Constant] = []
        self._damaged: dict[str, None] = {}
        self._steps = 0
        self._total = len(job.planned) + (calibration.streams.runs if calibration else 0)

    def plain(self, indices: Sequence[int]) -> None:
        """Solve targets without data: as asked for, or because calibration does not reach them."""
        fresh = self._fresh(indices)
        solutions = self._solutions(fresh, map(self._without_data, fresh))
        for index in indices:
            if index in fresh:
                self._keep(index, next(solutions))
            else:
                self._known(index)
            self._tell()

    def _fresh(self, indices: Sequence[int]) -> dict[int, Planned]:
        """The targets whose weight is not that of an earlier one."""
        seen, fresh = set(self._done), dict[int, Planned]()
        for index in indices:
            p = self._job.planned[index]
            if (p.target.key, p.kernel) not in seen:
                fresh[index] = p
            seen.add((p.target.key, p.kernel))
        return fresh

    def _without_data(self, index: int) -> WeightTask:
        job, p = self._job, self._job.planned[index]
        solver = make_solver(AUTO) if job.solver.calibrated else job.solver
        expected = expected_mean_square(job.graph, p.target) if solver.weighs_inputs else None
        statistics = None if expected is None else Statistics(tokens=0, mean_square=expected)
        return self._task(p, solver, statistics)

    def _task(
        self,
        p: Planned,
        solver: Solver,
        statistics: Statistics | Path | None,
        *,
        centred: bool = False,
        input_scale: Float64Array | None = None,
    ) -> WeightTask:
        t, scheme = p.target, self._job.options.scheme
        return WeightTask(t.matrix, t.scale_type, p.kernel.block_size, solver, scheme, statistics, centred, input_scale)

    def calibrated(self, position: int, stage: Stage, calibration: Calibration) -> None:
        """Run the samples up to a stage, and solve its targets."""
        solutions = self._resumed(position, stage, calibration)
        if solutions is None:
            solutions = self._solved(position, stage, calibration)
            if calibration.checkpoint:
                self._job.graph.check_unchanged()  # a checkpoint belongs to the model that its identity names
                calibration.checkpoint.save(position, *_joined(solutions))
        scales = [s.input_scale for s in solutions.values() if s.input_scale is not None]
        if scales:
            self._abandoned += fold(self._job.graph, calibration.folds[stage.source], scales[0], self._spool)
            calibration.streams.scale(stage.source, scales[0])
        for index in stage.targets:
            if index in solutions:
                self._keep(index, solutions[index])
            else:
                self._known(index)
            self._tell()

    def _resumed(self, position: int, stage: Stage, calibration: Calibration) -> dict[int, SolvedWeight] | None:
        """What an interrupted run has left of a stage."""
        found = calibration.checkpoint.load(position) if calibration.checkpoint else None
        if found is None:
            return None
        solutions = parted(*found)
        if solutions is None or not all(
            index in stage.targets and self._fits(index, solution) for index, solution in solutions.items()
        ):
            return None
        calibration.streams.skip(position, self._spool, self._tell)
        return solutions

    def _fits(self, index: int, solution: SolvedWeight) -> bool:
        """Whether a solution is one of this target."""
        p, parts = self._job.planned[index], solution.parts
        kernel, blocks = p.kernel, -(-p.target.k // p.kernel.block_size)
        shape = blocks, kernel.block_size * kernel.bits // 8
        return sum(len(part.b) for part in parts) == p.target.n and all(
            part.b.shape[1:] == shape and part.scales.shape == (len(part.b), blocks) for part in parts
        )

    def _solved(self, position: int, stage: Stage, calibration: Calibration) -> dict[int, SolvedWeight]:
        planned, job = self._job.planned, self._job
        statistics = calibration.streams.advance(
            position, self._spool, rounded_in(planned[stage.targets[0]]), self._tell
        )
        biases = calibration.biases if job.solver.moves_bias else {}
        input_scale = self._input_scale(stage, statistics, calibration, centred=biases.keys() >= set(stage.targets))
        if statistics and input_scale is not None:
            statistics = statistics.scaled(input_scale)
        fresh = self._fresh(stage.targets)
        with self._handed(statistics, calibration) as given:
            solutions = self._solutions(
                fresh,
                (
                    self._without_data(index)
                    if given is None
                    else self._task(p, job.solver, given, centred=index in biases, input_scale=input_scale)
                    for index, p in fresh.items()
                ),
            )
            return {index: found for index, found in zip(fresh, solutions, strict=True) if found}

    @contextmanager
    def _handed(self, statistics: Statistics | None, calibration: Calibration) -> Iterator[Statistics | Path | None]:
        """Statistics as those who solve get them: in a file where they are elsewhere."""
        if statistics is None or not self._job.workers.elsewhere:
            yield statistics
            return
        with dumped(calibration.checkpoint.folder, statistics) as file:
            yield file

    def _solutions(self, indices: Iterable[int], tasks: Iterable[WeightTask]) -> Iterator[SolvedWeight | None]:
        """Solve weights, wherever that is done; those that are damaged are remembered."""
        job, memory = self._job, self._job.options.memory // PART_OF_MEMORY
        solutions = (
            job.workers.in_order(solve_weight, tasks, memory)
            if job.workers.elsewhere
            else (solve_weight(task, value) for task, value in read_ahead(tasks, memory))
        )
        for index, solution in zip(indices, solutions, strict=True):
            if solution is None:
                self._damaged[job.planned[index].target.weight.leaf.name] = None
            yield solution

    def _input_scale(
        self, stage: Stage, statistics: Statistics | None, calibration: Calibration, *, centred: bool
    ) -> Float64Array | None:
        """What a stage's inputs are to be divided by, where the solver wants that and the graph allows it."""
        solver, options = self._job.solver, self._job.options
        if statistics is None or stage.source not in calibration.folds:
            return None
        targets = [self._job.planned[i].target for i in stage.targets]
        weights = [target.load() for target in targets]
        statistics = statistics.centred() if centred else statistics
        return solver.input_scale(weights, options.scheme, statistics, scale_type=targets[0].scale_type)

    def refuse_damaged(self) -> None:
        """Look for weights that are not finite.

        Raises:
            ModelError: there are some; all of them are named.
        """
        scratch = Scratch()
        for p in self._job.planned:
            weight = p.target.matrix
            value = weight.read(scratch)
            total = sum(weight_range(weight.rows(value, rows)).energy for rows in row_chunks(weight.n, weight.k))
            if not total < float("inf"):
                self._damaged[p.target.weight.leaf.name] = None
        self._refuse()

    def finish(self) -> tuple[list[TargetReport], list[Expected]]:
        """Carry out the changes, and complete the reports."""
        self._refuse()
        forget_loaded()
        if self._calibration:
            self._calibration.streams.finish(self._spool, self._tell)
            self._measured(self._calibration)
        self._job.workers.everywhere(forget_loaded)
        if self._reports:
            self._say(self._total)
        self._job.graph.finish(self._abandoned)
        order = sorted(self._reports)
        return [self._reports[i] for i in order], [self._meant[i] for i in order]

    def _measured(self, calibration: Calibration) -> None:
        """Put the errors of outputs, as the segments' kernels made them, into the reports."""
        for index, report in self._reports.items():
            found = calibration.streams.errors.get(calibration.point(self._job, index))
            if found is not None:
                self._reports[index] = replace(report, output_error=found.relative)

    def _keep(self, index: int, solution: SolvedWeight | None) -> None:
        """Store a solved weight and put its node into the graph."""
        p = self._job.planned[index]
        if solution is None or self._damaged:
            return
        stored = store(self._job.graph, p.target, solution.parts, self._spool)
        report = _report(describe(p, self._job), solution)
        self._done[p.target.key, p.kernel] = _Done(stored, report, solution.digest)
        self._rewrite(index, stored, report, solution)

    def _rewrite(self, index: int, stored: Stored, report: TargetReport, solution: SolvedWeight | None) -> None:
        p, graph = self._job.planned[index], self._job.graph
        bias = self._calibration.biases.get(index) if self._calibration and solution else None
        shift = solution.shift if solution and bias else None
        own = bias is not None and bias.node.proto is p.target.node.proto
        self._abandoned += rewrite(graph, p.target, stored, p.kernel, self._spool, shift if own else None)
        if bias is not None and shift is not None and not own:
            self._abandoned += shift_bias(graph, bias, shift, self._spool)
        digest = self._done[p.target.key, p.kernel].digest
        self._reports[index] = report
        _LOGGER.info("%s", _line(report))
        self._meant[index] = Expected(p.target.name, stored.codes, p.target.n, p.target.k, p.kernel, digest)

    def _known(self, index: int) -> bool:
        """Whether an earlier target has the same weight; then this one takes it."""
        p = self._job.planned[index]
        done = self._done.get((p.target.key, p.kernel))
        if done is None:
            return False
        own = replace(done.report, name=p.target.name, op_type=p.target.node.op_type, bytes=0, shares=done.report.name)
        self._rewrite(index, done.stored, own, None)
        return True

    def _tell(self) -> None:
        self._say(self._steps)
        self._steps += 1

    def _say(self, done: int) -> None:
        self._progress("calibrating and solving" if self._calibration else "solving", done, self._total)

    def _refuse(self) -> None:
        names = list(self._damaged)
        if names:
            what = "1 weight" if len(names) == 1 else f"{len(names)} weights"
            raise ModelError(
                f"NaN or infinite values in {what} of '{self._job.graph.path}': {', '.join(map(repr, names))}. "
                "Export the model again, or leave their nodes out with --exclude."
            )


def _line(report: TargetReport) -> str:
    """A target as it was solved, for the log."""
    what = f"{report.name}: {report.n} x {report.k}, {report.bits} bits, block {report.block_size}"
    if report.shares:
        return f"{what}, the weight of {report.shares}"
    error = "" if report.relative_error is None else f", relative error of the weights {report.relative_error:.4g}"
    tokens = f", {report.tokens} tokens" if report.tokens else ""
    return "; ".join([f"{what}, {report.algorithm}{tokens}{error}", *report.remarks])


def _report(planned: TargetReport, solution: SolvedWeight) -> TargetReport:
    return replace(
        planned,
        relative_error=solution.error / solution.energy if solution.energy else 0.0,
        bytes=solution.nbytes,
        algorithm=solution.algorithm,
        weighted=solution.weighted,
        tokens=solution.tokens,
        weights=(solution.least, solution.largest),
        activations=solution.activations,
        remarks=solution.remarks,
    )


def _joined(solutions: dict[int, SolvedWeight]) -> tuple[dict[str, Array], dict[str, Any]]:
    """All solutions of a stage as one set of arrays."""
    arrays: dict[str, Array] = {}
    facts: dict[str, Any] = {}
    for index, solution in solutions.items():
        own, facts[str(index)] = to_arrays(solution)
        arrays |= {f"{index}/{name}": array for name, array in own.items()}
    return arrays, facts


def parted(arrays: dict[str, Array], facts: dict[str, Any]) -> dict[int, SolvedWeight] | None:
    """The inverse of `_joined`; None where a stage's file is whole, but not what was written."""
    try:
        return {
            int(i): from_arrays({n.split("/", 1)[1]: a for n, a in arrays.items() if n.startswith(f"{i}/")}, about)
            for i, about in facts.items()
        }
    except (KeyError, ValueError, AttributeError, TypeError):
        return None
