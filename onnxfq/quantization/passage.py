"""The samples that take one route through a model, and what they meet there: stages, biases, two streams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence

from onnxfq.calibration.pieces import Runtime
from onnxfq.calibration.routes import Route
from onnxfq.calibration.stages import find_stages
from onnxfq.calibration.streams import ErrorSum, Residual, Streams
from onnxfq.feeds import Feeds
from onnxfq.graph import TensorFile
from onnxfq.quantization.job import Job
from onnxfq.rules import Fold, expected_mean_square, find_bias, find_fold, find_residuals
from onnxfq.statistics import Statistics

PRIOR_TOKENS = 32  # what is known of inputs that no sample showed counts as much as so many tokens
Tell = Callable[[], None]  # called after every step


class Passage:
    """Samples on their way through a model, stage by stage.

    Args:
        job: the model and what was decided.
        route: which samples, and the branches that they take.
        feeds: all samples.
        runtime: where and how parts of the model run.
        held: samples, of all, that are held back from statistics.

    Attributes:
        samples: their positions among all samples.
        stages: those that they reach, in order.
        biases: of each target that has one which may be changed, by position.
        folds: where the inputs of a stage may be scaled, by its source.
        residuals: of each stage, what the product of one of its targets is added to; None where there is none.
        streams: through the model as it is and as far as it is quantized.
    """

    def __init__(self, job: Job, route: Route, feeds: Feeds, runtime: Runtime, held: Collection[int] = ()) -> None:
        self._job, self._flow, self._runtime = job, route.flow, runtime
        self._feeds = [feeds[sample] for sample in route.samples]
        self.samples = route.samples
        targets = [p.target for p in job.planned]
        self.stages = [stage for stage in find_stages(route.flow, targets) if stage.source]
        outputs = {spec.name for spec in job.graph.signature.outputs}
        reached = [index for stage in self.stages for index in stage.targets]
        found = {index: find_bias(job.graph, route.flow, targets[index], outputs) for index in reached}
        self.biases = {index: bias for index, bias in found.items() if bias is not None}
        self.folds = self._folds(outputs)
        self.residuals = self._find_residuals(outputs)
        points = [[self._point(index) for index in stage.targets] for stage in self.stages]
        back = [position for position, sample in enumerate(route.samples) if sample in held]
        self.streams = self._streams(points, self.residuals, back)

    def measure(self, index: int, tensor_file: TensorFile, tell: Tell) -> Statistics | None:
        """Run the samples up to a stage and measure its inputs; None where no sample gives any."""
        return self._measure(self.streams, index, tensor_file, tell)

    def survey(self, wanted: Collection[int], tensor_file: TensorFile, tell: Tell) -> dict[int, Statistics]:
        """Measure the inputs of some stages in the original, before any product is quantized.

        Args:
            wanted: the stages.
            tensor_file: of the run; tables may be in it.
            tell: called after every sample of every stage, up to the last that is wanted.
        """
        streams, found = self._streams([[] for _ in self.stages]), dict[int, Statistics]()
        try:
            for index in range(max(wanted, default=-1) + 1):
                if index not in wanted:
                    streams.skip(index, tensor_file, tell)
                elif (statistics := self._measure(streams, index, tensor_file, tell)) is not None:
                    found[index] = statistics
        finally:
            streams.close()
        return found

    def errors(self) -> dict[int, ErrorSum]:
        """Of each target's output, as the segments' kernels made it."""
        points = {index: self._point(index) for stage in self.stages for index in stage.targets}
        return {index: self.streams.errors[name] for index, name in points.items() if name in self.streams.errors}

    def _streams(
        self,
        points: Sequence[Sequence[str]],
        residuals: Sequence[Residual | None] = (),
        held: Collection[int] = (),
    ) -> Streams:
        job = self._job
        return Streams(
            job.graph,
            self._flow,
            self.stages,
            points,
            self._feeds,
            self._runtime,
            job.workers,
            residuals=residuals,
            held=held,
        )

    def _find_residuals(self, outputs: Collection[str]) -> list[Residual | None]:
        """What each stage's product is added to, of the values that are known before it.

        Outputs of earlier stages are known too: where several products are added to one residual, each makes up for
        what those before it have left, and not all of them for the same.
        """
        found, last = list[Residual | None](), self._last_stages()
        uses = Counter(p.key for p in self._job.planned)
        for position, stage in enumerate(self.stages):
            known = {name for name, product in last.items() if product < position}
            plain = [i for i in stage.targets if stage.part is None and uses[self._job.planned[i].key] == 1]
            plain = [i for i in plain if self._job.planned[i].target.last_axes]
            names = {i: find_residuals(self._flow, self._point(i), outputs, known) for i in plain}
            one = next((i for i, own in names.items() if own), None)
            found.append(None if one is None else Residual(one, names[one], self._job.planned[one].target.n))
        return found

    def _last_stages(self) -> dict[str, int]:
        """Of each value that is computed, the last stage whose products it depends on; -1 where it depends on none."""
        own = {
            id(self._job.planned[index].target.node.proto): position
            for position, stage in enumerate(self.stages)
            for index in stage.targets
        }
        found = dict[str, int]()
        for step in self._flow.steps:
            last = max((found.get(name, -1) for name in step.reads), default=-1)
            found |= dict.fromkeys(step.writes, max(last, own.get(id(step.node.proto), -1)))
        return found

    def _measure(self, streams: Streams, index: int, tensor_file: TensorFile, tell: Tell) -> Statistics | None:
        planned = [self._job.planned[i] for i in self.stages[index].targets]
        # What rounding costs that a scale may still make smaller is reckoned with when that is known (`with_rounding`).
        blocks = Counter(None if p.rule.rounds_rows else p.rule.rounded_block(p.kernel, p.target.k) for p in planned)
        found = streams.advance(index, tensor_file, blocks.most_common(1)[0][0], tell)
        if found is None:
            return None
        return found.with_prior(expected_mean_square(self._job.graph, planned[0].target), PRIOR_TOKENS)

    def _folds(self, outputs: Collection[str]) -> dict[str, Fold]:
        """Where stages' inputs may be scaled; nowhere where a weight is used by another node too."""
        uses = Counter(p.target.key for p in self._job.planned)
        folds = {}
        for stage in self.stages:
            targets = [self._job.planned[i].target for i in stage.targets]
            if stage.transposed or stage.part is not None or any(uses[target.key] > 1 for target in targets):
                continue
            found = find_fold(self._job.graph, self._flow, stage.source, targets, outputs)
            if found is not None:
                folds[stage.source] = found
        return folds

    def _point(self, index: int) -> str:
        """The value in which the error of a target shows."""
        bias = self.biases.get(index)
        return bias.output if bias else self._job.planned[index].target.node.outputs[0]
