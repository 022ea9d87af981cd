"""One model's calibration: its stages, the biases behind its targets, and the two streams that run through it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from onnxfq.calibration.checkpoint import Checkpoint
from onnxfq.calibration.pieces import Runtime
from onnxfq.calibration.stages import Stage, find_stages
from onnxfq.calibration.streams import Streams
from onnxfq.feeds import Feeds, always
from onnxfq.graph import Flow
from onnxfq.providers import facts
from onnxfq.quantization.find import Planned
from onnxfq.quantization.job import Job
from onnxfq.reports.report import TargetReport
from onnxfq.rules import Bias, Fold, find_bias, find_fold


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the solving loop needs to calibrate.

    Attributes:
        stages: in order; those out of reach have no source.
        biases: of each target that has one which may be changed, by position.
        folds: where the inputs of a stage may be scaled, by its source.
        streams: the samples on their way.
        checkpoint: finished stages.
        samples: how many there are.
    """

    stages: Sequence[Stage]
    biases: dict[int, Bias]
    folds: dict[str, Fold]
    streams: Streams
    checkpoint: Checkpoint
    samples: int

    @property
    def reached(self) -> list[Stage]:
        """The stages that calibration reaches."""
        return [stage for stage in self.stages if stage.source]

    def point(self, job: Job, index: int) -> str:
        """The value in which the error of a target shows."""
        bias = self.biases.get(index)
        return bias.output if bias else job.planned[index].target.node.outputs[0]

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
                f"{len(dropped)} of {self.samples} samples gave NaN or infinity and were left out of calibration: "
                f"{listed}."
            )
        lost = sum(len(stage.targets) for stage in self.stages if not stage.source)
        if lost:
            notes.append(
                f"{_nodes(lost)} quantized without data: out of calibration's reach inside loops, local functions or "
                "undecided branches, or with an input that no sample changes."
            )
        missed = sum(not reports[index].tokens for stage in self.reached for index in stage.targets)
        if missed:
            notes.append(f"{_nodes(missed)} quantized without data: no sample got that far.")
        return notes


def _nodes(count: int) -> str:
    return "1 node was" if count == 1 else f"{count} nodes were"


@contextmanager
def calibrated(job: Job, feeds: Feeds, finished: Checkpoint) -> Iterator[Calibration]:
    """Get ready to run samples through a model, stage by stage.

    Args:
        job: the model and what was decided.
        feeds: the samples.
        finished: stages; its folder also takes what does not fit in memory.
    """
    flow = Flow(job.graph, lambda name: always(feeds, name))
    targets = [p.target for p in job.planned]
    stages = find_stages(flow, targets)
    reached = [stage for stage in stages if stage.source]
    outputs = {spec.name for spec in job.graph.signature.outputs}
    found = {i: find_bias(job.graph, flow, targets[i], outputs) for stage in reached for i in stage.targets}
    biases = {i: bias for i, bias in found.items() if bias is not None}
    points = [[biases[i].output if i in biases else targets[i].node.outputs[0] for i in s.targets] for s in reached]
    folds = _folds(job, flow, reached, outputs)
    runtime = Runtime(job.provider, job.threads, job.options.memory, finished.folder)
    streams = Streams(job.graph, flow, reached, points, feeds, runtime, job.workers)
    try:
        yield Calibration(stages, biases, folds, streams, finished, len(feeds))
    finally:
        streams.close()


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


def rounded_in(p: Planned) -> int | None:
    """Columns that share a scale where a kernel rounds its input to int8; None where it does not."""
    return p.kernel.block_size if facts(p.kernel.provider).rounds_activations and p.kernel.accuracy_level == 4 else None
