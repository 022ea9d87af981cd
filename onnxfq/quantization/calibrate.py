"""One model's calibration: its stages, the biases behind its targets, and the two streams that run through it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from onnxfq.calibration.checkpoint import Checkpoint
from onnxfq.calibration.pieces import Runtime
from onnxfq.calibration.stages import Stage, find_stages
from onnxfq.calibration.streams import Streams
from onnxfq.errors import OperatorError
from onnxfq.feeds import Feeds, always
from onnxfq.graph import Flow, TensorFile
from onnxfq.quantization.assign import Planned
from onnxfq.quantization.comparison import WITHOUT_RUNNING
from onnxfq.quantization.job import Job
from onnxfq.quantization.rounding import Rounding, measure_rounding, rounding_note
from onnxfq.quantization.solved_weight import SolvedWeight, joined, parted
from onnxfq.reports.report import TargetReport
from onnxfq.rules import Fold, expected_mean_square, find_bias, find_fold, fold
from onnxfq.statistics import Statistics

PRIOR_TOKENS = 32  # what is known of inputs that no sample showed counts as much as so many tokens
Tell = Callable[[], None]  # called after every step


class Calibration:
    """Samples on their way through a model, stage by stage, and what is finished of it.

    Attributes:
        stages: those that calibration reaches, in order.
        tables: targets, by position, that are no products: data tell nothing about them, but later stages see them.
        unreached: other targets out of calibration's reach.
        biases: of each target that has one which may be changed, by position.
        folds: where the inputs of a stage may be scaled, by its source.
    """

    def __init__(self, job: Job, feeds: Feeds, checkpoint: Checkpoint, tensor_file: TensorFile) -> None:
        self._job, self._checkpoint, self._tensor_file, self._samples = job, checkpoint, tensor_file, len(feeds)
        self._rounding: dict[int, Rounding] = {}
        flow = Flow(job.graph, lambda name: always(feeds, name), fed=feeds[0])
        targets = [p.target for p in job.planned]
        stages = find_stages(flow, targets)
        self.stages = [stage for stage in stages if stage.source]
        out_of_reach = [stage.targets[0] for stage in stages if not stage.source]
        self.tables = [index for index in out_of_reach if not targets[index].source]
        self.unreached = [index for index in out_of_reach if targets[index].source]
        outputs = {spec.name for spec in job.graph.signature.outputs}
        found = {i: find_bias(job.graph, flow, targets[i], outputs) for stage in self.stages for i in stage.targets}
        self.biases = {i: bias for i, bias in found.items() if bias is not None}
        self.folds = _folds(job, flow, self.stages, outputs)
        points = [[self._point(i) for i in stage.targets] for stage in self.stages]
        runtime = Runtime(job.provider, job.threads, job.options.memory, checkpoint.folder)
        self.streams = Streams(job.graph, flow, self.stages, points, feeds, runtime, job.workers)

    @property
    def runs(self) -> int:
        """How many runs of segments all stages take."""
        return self.streams.runs

    @property
    def folder(self) -> Path:
        """Where this process and its workers exchange files."""
        return self._checkpoint.folder

    def resume(self, position: int, tell: Tell) -> dict[int, SolvedWeight] | None:
        """What an interrupted run has left of a stage, by target; the samples run up to it all the same."""
        found = self._checkpoint.load(position)
        solved = None if found is None else parted(*found)
        if solved is None or not all(
            index in self.stages[position].targets and _fits(self._job.planned[index], weight)
            for index, weight in solved.items()
        ):
            return None
        self.skip(position, tell)
        return solved

    def measure(self, position: int, tell: Tell) -> Statistics | None:
        """Run all samples up to a stage and measure its inputs; None where no sample gives any."""
        planned = [self._job.planned[index] for index in self.stages[position].targets]
        blocks = Counter(p.rule.rounded_block(p.kernel) for p in planned)
        found = self.streams.advance(position, self._tensor_file, blocks.most_common(1)[0][0], tell)
        if found is None:
            return None
        return found.with_prior(expected_mean_square(self._job.graph, planned[0].target), PRIOR_TOKENS)

    def skip(self, position: int, tell: Tell) -> None:
        """Run all samples up to a stage about which nothing needs to be known."""
        self.streams.skip(position, self._tensor_file, tell)

    def save(self, position: int, solved: Mapping[int, SolvedWeight]) -> None:
        """Keep a finished stage for a resumed run."""
        self._job.graph.check_unchanged()  # a checkpoint belongs to the model that its identity names
        self._checkpoint.save(position, *joined(solved))

    def weigh_rounding(self, solved: Mapping[int, SolvedWeight]) -> None:
        """Measure how much of the error of a stage's weights is its inputs' rounding."""
        for index, weight in solved.items():
            found = measure_rounding(self._job.planned[index], weight, self.streams.seen)
            if found is not None:
                self._rounding[index] = found

    def scale_inputs(self, stage: Stage, solved: Mapping[int, SolvedWeight]) -> None:
        """Divide the inputs of a stage by what its weights were multiplied by, in the graph and in the streams."""
        scales = [weight.input_scale for weight in solved.values() if weight.input_scale is not None]
        if scales:
            fold(self._job.graph, self.folds[stage.source], scales[0], self._tensor_file)
            self.streams.scale(stage.source, scales[0])

    def finish(self, tell: Tell) -> dict[int, float]:
        """Run what is left; returns the relative error of each target's output, as the segments' kernels made it."""
        self.streams.finish(self._tensor_file, tell)
        errors = self.streams.errors
        points = {index: self._point(index) for index in range(len(self._job.planned))}
        return {index: errors[name].relative for index, name in points.items() if name in errors}

    def notes(self, reports: Sequence[TargetReport]) -> list[str]:
        """What went wrong, for the report.

        Args:
            reports: of all targets, in order.
        """
        notes = []
        dropped = self.streams.dropped
        if dropped:
            listed = ", ".join(f"{sample + 1} (in '{name}')" for sample, name in sorted(dropped.items())[:5])
            notes.append(
                f"{len(dropped)} of {self._samples} samples gave NaN or infinity and were left out of calibration: "
                f"{listed}."
            )
        if self.unreached:
            notes.append(
                f"{_nodes(len(self.unreached))} quantized without data: out of calibration's reach inside loops, local "
                "functions or undecided branches, or with an input that no sample changes."
            )
        missed = sum(
            not reports[index].tokens and not reports[index].shares for stage in self.stages for index in stage.targets
        )
        if missed:
            notes.append(f"{_nodes(missed)} quantized without data: no sample got that far.")
        rounding = rounding_note(dict(enumerate(self._job.planned)), self._rounding)
        notes += [rounding] if rounding else []
        return notes

    def _point(self, index: int) -> str:
        """The value in which the error of a target shows."""
        bias = self.biases.get(index)
        return bias.output if bias else self._job.planned[index].target.node.outputs[0]


def _nodes(count: int) -> str:
    return "1 node was" if count == 1 else f"{count} nodes were"


@contextmanager
def calibrate(job: Job, feeds: Feeds, checkpoint: Checkpoint, tensor_file: TensorFile) -> Iterator[Calibration]:
    """Get ready to run samples through a model, stage by stage.

    Args:
        job: the model and what was decided.
        feeds: the samples.
        checkpoint: finished stages; its folder also takes what does not fit in memory.
        tensor_file: holds what is quantized so far.
    """
    calibration = Calibration(job, feeds, checkpoint, tensor_file)
    try:
        yield calibration
    except OperatorError as error:
        raise OperatorError(f"{error} {WITHOUT_RUNNING}") from error
    finally:
        calibration.streams.close()


def _folds(job: Job, flow: Flow, stages: Sequence[Stage], outputs: Collection[str]) -> dict[str, Fold]:
    """Where stages' inputs may be scaled; nowhere where a weight is used by another node too."""
    uses = Counter(p.target.key for p in job.planned)
    folds = {}
    for stage in stages:
        targets = [job.planned[i].target for i in stage.targets]
        if stage.transposed or any(uses[target.key] > 1 for target in targets):
            continue
        found = find_fold(job.graph, flow, stage.source, targets, outputs)
        if found is not None:
            folds[stage.source] = found
    return folds


def _fits(planned: Planned, weight: SolvedWeight) -> bool:
    """Whether a solved weight is one of this target."""
    rule, kernel, k = planned.storage, planned.kernel, planned.target.k
    rows = [len(next(iter(part.values()), ())) for part in weight.parts]
    return sum(rows) == planned.target.n and all(
        rule.fits(part, n, k, kernel) for part, n in zip(weight.parts, rows, strict=True)
    )
