"""Solve, rewrite: every planned weight, with data or without, and its node into the graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from onnxfq.arrays import Float64Array
from onnxfq.calibration.checkpoint import Checkpoint
from onnxfq.executors.serialization import forget_loaded
from onnxfq.feeds import Feeds
from onnxfq.graph import TensorFile
from onnxfq.progress import Progress, Steps
from onnxfq.quantization.apply import Rewriting
from onnxfq.quantization.assign import Planned
from onnxfq.quantization.calibrate import Calibration, Group, calibrate
from onnxfq.quantization.expected import Expected
from onnxfq.quantization.job import Job
from onnxfq.quantization.mix_trial import AS_PLANNED
from onnxfq.quantization.smoothing import find_smoothing, with_rounding
from onnxfq.quantization.solve import (
    damaged,
    input_scale,
    solve,
    tasks_with_data,
    tasks_without_data,
    tuned,
    without_data,
)
from onnxfq.quantization.solved_weight import SolvedWeight, WeightTask
from onnxfq.reports.report import TargetReport
from onnxfq.rules import expected_mean_square


def solve_and_rewrite(
    job: Job, samples: Feeds | None, checkpoint: Checkpoint | None, tensor_file: TensorFile, progress: Progress
) -> tuple[list[TargetReport], list[Expected], list[str]]:
    """Quantize every planned weight, and put the quantized nodes into the graph.

    Returns:
        What became of each target, what its node must hold in the written file, and notes for the report.
    """
    rewriting = Rewriting(job, tensor_file)
    if samples is None or checkpoint is None:
        steps = Steps(progress, "solving", len(job.planned))
        _without_data(job, rewriting, range(len(job.planned)), steps)
        reports, expected = rewriting.finish({})
        _end(job, steps)
        return reports, expected, []
    rewriting.refuse_damaged(damaged(job.planned))  # before the long work
    with calibrate(job, samples, checkpoint, tensor_file) as calibration:
        steps = Steps(progress, "calibrating and solving", len(job.planned) + calibration.runs)
        _without_data(job, rewriting, calibration.tables, steps)
        calibration.survey(steps)
        _finish_tied(job, calibration, rewriting, steps)
        for position, stage in enumerate(calibration.stages):
            _finish_stage(job, calibration, position, rewriting, rewriting.missing(stage.targets), steps)
        _without_data(job, rewriting, calibration.unreached, steps)
        reports, expected = rewriting.finish(calibration.errors())
        _end(job, steps)
        return reports, expected, calibration.notes(reports)


def _finish_stage(
    job: Job,
    calibration: Calibration,
    position: int,
    rewriting: Rewriting,
    planned: dict[int, Planned],
    steps: Steps,
) -> None:
    """Solve the weights of a stage that no earlier one has stored, and put all of its nodes into the graph."""
    solved: dict[int, SolvedWeight] = {}
    if not planned:
        calibration.skip(position, steps)
    elif (kept := calibration.resume(position, steps)) is not None:
        solved = kept
    else:
        solved = _calibrate_and_solve(job, calibration, position, planned, steps)
        calibration.save(position, solved)
    calibration.remember(solved)
    calibration.weigh_rounding(position, solved)
    folded = calibration.fold_of(position) is not None
    calibration.scale_inputs(position, solved)
    for index in calibration.fresh(position):
        weight = solved.get(index)
        shift = calibration.shift(position, index, weight)
        bias = calibration.bias(position, index)
        rewriting.apply(index, weight, bias, shift, folded=folded)
        if job.trial is not None:
            job.trial.keep_bias(index, bias, shift)
        steps()
    calibration.end(position, steps)


def _finish_tied(job: Job, calibration: Calibration, rewriting: Rewriting, steps: Steps) -> None:
    """Solve the tables that are weights of products too, for these, and put them into the graph before all else."""
    planned = rewriting.missing(calibration.tied)
    solved = calibration.resume_tied() if planned else {}
    if solved is None:
        solved = _solve_groups(job, calibration, planned, calibration.measure_tied(planned))
        calibration.save_tied(solved)
    calibration.remember(solved)
    for index in calibration.tied:
        rewriting.apply(index, solved.get(index))
        steps()


def _calibrate_and_solve(
    job: Job, calibration: Calibration, position: int, planned: dict[int, Planned], steps: Steps
) -> dict[int, SolvedWeight]:
    """Measure a stage's inputs, and solve its weights for them."""
    groups = calibration.measure(position, planned, steps)
    biased, scale = calibration.biased(position), None
    stage = [job.planned[i] for i in calibration.stages[position].targets]
    folds = calibration.fold_of(position) is not None and job.trial is None  # one scale for all would be exchanged too
    if all(p.rule.rounds_rows for p in stage):
        inputs = calibration.seen(position)
        scale = _smoothing(stage, inputs, folds=folds) if calibration.scales(position) and len(groups) == 1 else None
        groups = [(group, with_rounding(statistics, inputs, scale)) for group, statistics in groups]
    elif job.solver.scales_inputs and folds and len(groups) == 1:
        centred = set(biased) >= set(calibration.stages[position].targets)
        scale = input_scale(stage, job.solver, groups[0][1], centred=centred)
    return _solve_groups(job, calibration, planned, groups, biased, scale, calibration.drifting(position))


def _solve_groups(
    job: Job,
    calibration: Calibration,
    planned: dict[int, Planned],
    groups: Sequence[Group],
    biased: Sequence[int] = (),
    scale: Float64Array | None = None,
    drifting: int | None = None,
) -> dict[int, SolvedWeight]:
    """Solve weights for the inputs that were measured, those without any as well as that can be done."""
    measured = {index for group, _ in groups for index in group}
    forms = {AS_PLANNED: planned, **(job.trial.forms(planned) if job.trial is not None else {})}
    rest = {number: {i: p for i, p in form.items() if i not in measured} for number, form in forms.items()}
    solved = {
        number: _kept(solve(_tasks_without_data(job, form), job.workers, job.options.memory))
        for number, form in rest.items()
    }
    folder = calibration.folder if job.workers.elsewhere else None
    for group, statistics in groups:
        solver = tuned(group, job.solver, statistics, biased=biased, input_scale=scale, drifting=drifting)
        for number, form in forms.items():
            part = {i: form[i] for i in group if i in form}
            with tasks_with_data(
                part, solver, statistics, folder, biased=biased, input_scale=scale, drifting=drifting
            ) as tasks:
                solved[number] |= _kept(solve(tasks, job.workers, job.options.memory))
    if job.trial is not None:
        for number, found in solved.items():
            job.trial.keep(number, found)
    return dict(sorted(solved[AS_PLANNED].items()))


def _smoothing(stage: Sequence[Planned], inputs: Float64Array, *, folds: bool) -> Float64Array | None:
    """What a stage's inputs are to be divided by, [K]: where that costs nothing when the model runs, or pays."""
    ((scheme, _),) = Counter(p.scheme for p in stage).most_common(1)
    found = find_smoothing([p.target.load() for p in stage], inputs, scheme)
    return found.scale if found and (folds or found.pays) else None


def _kept(solved: Iterable[tuple[int, SolvedWeight | None]]) -> dict[int, SolvedWeight]:
    """A stage's weights; none is damaged, for that was looked after before."""
    return {index: weight for index, weight in solved if weight is not None}


def _tasks_without_data(job: Job, planned: dict[int, Planned]) -> dict[int, WeightTask]:
    """What to solve, with what the graph alone tells about the inputs."""
    solver = without_data(job.solver)
    known = {i: expected_mean_square(job.graph, p.target) for i, p in planned.items()} if solver.weighs_inputs else {}
    return tasks_without_data(planned, solver, {i: value for i, value in known.items() if value is not None})


def _without_data(job: Job, rewriting: Rewriting, indices: Sequence[int], steps: Steps) -> None:
    """Solve targets without data, each put into the graph before the next is read."""
    planned = rewriting.missing(indices)
    solved = solve(_tasks_without_data(job, planned), job.workers, job.options.memory)
    for index in indices:
        weight = next(solved)[1] if index in planned else None
        rewriting.apply(index, weight)
        if job.trial is not None:
            job.trial.keep(AS_PLANNED, {index: weight})
        steps()
    if job.trial is not None:
        for number, form in job.trial.forms(planned).items():
            job.trial.keep(number, dict(solve(_tasks_without_data(job, form), job.workers, job.options.memory)))


def _end(job: Job, steps: Steps) -> None:
    """All weights are solved: workers need not keep anything of them."""
    job.workers.everywhere(forget_loaded)
    if job.planned:
        steps.finish()
