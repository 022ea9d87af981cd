"""One model's calibration: the routes that samples take through it, stage by stage, and what is finished of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from onnxfq.arrays import Float64Array
from onnxfq.calibration.checkpoint import Checkpoint
from onnxfq.calibration.pieces import Runtime
from onnxfq.calibration.routes import find_routes
from onnxfq.calibration.sample_batches import put_together
from onnxfq.calibration.stages import Stage
from onnxfq.calibration.streams import ErrorSum
from onnxfq.errors import OperatorError
from onnxfq.executors.serialization import dump, load, remove
from onnxfq.feeds import Feeds, hold_tokens, spliced
from onnxfq.graph import TensorFile
from onnxfq.quantization.assign import SHARED_BITS, Planned
from onnxfq.quantization.calibration_notes import data_notes, sharing_note
from onnxfq.quantization.comparison import WITHOUT_RUNNING
from onnxfq.quantization.job import Job
from onnxfq.quantization.passage import Passage, Tell
from onnxfq.quantization.rounding import Rounding, measure_rounding, rounding_note
from onnxfq.quantization.solved_weight import SolvedWeight, bias_shift, joined, parted
from onnxfq.quantization.weight_readers import Later, Pools, find_later, grouped
from onnxfq.reports.report import TargetReport
from onnxfq.rules import Bias, Fold, fold
from onnxfq.statistics import Statistics

LOOKUPS = 0.3  # how much errors of a table's rows count beside those of the product that reads it too
Group = tuple[dict[int, Planned], Statistics]  # targets of a stage, by position, and the inputs that count for them


class Calibration:
    """Samples on their way through a model, and what is finished of it.

    A stage is known by its position among those of all routes, one route after the other.

    Attributes:
        stages: those that calibration reaches, in order.
        tables: targets, by position, that are no products: data tell nothing about them, but later stages see them.
        tied: one target, by position, of each weight that is table and product at once and is fitted to the product.
        unreached: other targets out of calibration's reach.
    """

    def __init__(self, job: Job, feeds: Feeds, checkpoint: Checkpoint, tensor_file: TensorFile) -> None:
        held = hold_tokens(len(feeds)) if job.solver.tunes else frozenset()
        self._job, self._checkpoint, self._tensor_file, self._samples = job, checkpoint, tensor_file, len(feeds)
        self._rounding: dict[int, Rounding] = {}
        self._uses = Counter(p.key for p in job.planned)
        runtime = Runtime(job.provider, job.threads, job.options.memory, checkpoint.folder)
        batches = put_together(job.graph, spliced(feeds, job.graph.signature, held), held, runtime)
        self._members, held = batches.members, batches.holding(held)
        targets = [p.target for p in job.planned]
        routes = find_routes(job.graph, targets, batches.feeds, runtime)
        self._passages = [Passage(job, route, batches.feeds, runtime, held) for route in routes]
        self._places = [(passage, i) for passage in self._passages for i in range(len(passage.stages))]
        self.stages: list[Stage] = [passage.stages[i] for passage, i in self._places]
        reached = set[int]()
        self._fresh: list[list[int]] = []  # of each stage, the targets that no stage before it has
        for stage in self.stages:
            self._fresh.append([index for index in stage.targets if index not in reached])
            reached.update(stage.targets)
        left = [index for index in range(len(targets)) if index not in reached]
        self.tables = [index for index in left if job.planned[index].rule.kind != "weights"]
        self.unreached = [index for index in left if index not in self.tables]
        keys = {job.planned[index].key for index in reached if job.planned[index].scheme.bits < SHARED_BITS}
        self.tied = [index for index in self.tables if job.planned[index].key in keys]
        self.tables = [index for index in self.tables if index not in self.tied]
        solved, tied = ({job.planned[i].key for i in indices} for indices in (self.tables, self.tied))
        self._later = find_later(self.stages, job.planned, solved, tied)
        self._pools = Pools(list(self._later.values()), checkpoint.folder)
        self._shared: dict[Hashable, Path] = {}  # weights whose later readers' biases are still to be moved
        self._statistics: Statistics | None = None  # of the inputs of the stage that was measured last

    @property
    def runs(self) -> int:
        """How many runs of segments all stages take."""
        surveyed = sum(
            (max(wanted) + 1) * len(passage.samples) for passage, wanted in self._surveys().items() if wanted
        )
        return surveyed + sum(passage.streams.runs for passage in self._passages)

    @property
    def folder(self) -> Path:
        """Where this process and its workers exchange files."""
        return self._checkpoint.folder

    def survey(self, tell: Tell) -> None:
        """Measure, in the original, the inputs of all stages that read a weight after another has solved it."""
        positions = {(id(passage), index): position for position, (passage, index) in enumerate(self._places)}
        for passage, wanted in self._surveys().items():
            for index, found in passage.survey(wanted, self._tensor_file, tell).items():
                biased = self._job.solver.moves_bias and passage.biases.keys() >= set(passage.stages[index].targets)
                about_zero = replace(found, centred_gram=found.gram, centred_cross=found.cross)
                self._pools.add(positions[id(passage), index], found if biased else about_zero)

    def fresh(self, position: int) -> list[int]:
        """The targets of a stage that no stage before it has, on another route."""
        return self._fresh[position]

    def bias(self, position: int, index: int) -> Bias | None:
        """The bias behind a target of a stage that may be changed."""
        return self._places[position][0].biases.get(index)

    def biased(self, position: int) -> list[int]:
        """The targets of a stage whose bias the solver moves."""
        moved = self._places[position][0].biases if self._job.solver.moves_bias else {}
        return [index for index in self.stages[position].targets if index in moved]

    def drifting(self, position: int) -> int | None:
        """The target of a stage whose product is added to a residual; None where there is none."""
        passage, index = self._places[position]
        residual = passage.residuals[index]
        return None if residual is None else residual.target

    def fold_of(self, position: int) -> Fold | None:
        """Where the inputs of a stage may be scaled; nowhere where some of its weights are stored already."""
        if len(self.fresh(position)) < len(self.stages[position].targets):
            return None
        return self._places[position][0].folds.get(self.stages[position].source)

    def scales(self, position: int) -> bool:
        """Whether the inputs of a stage may be scaled at its nodes: none of its weights is read by any other."""
        keys = [self._job.planned[index].key for index in self.stages[position].targets]
        return len(self.fresh(position)) == len(keys) and all(self._uses[key] == 1 for key in keys)

    def seen(self, position: int) -> Float64Array:
        """[tokens, K], some inputs of the stage that was measured last."""
        return self._places[position][0].streams.seen

    def resume(self, position: int, tell: Tell) -> dict[int, SolvedWeight] | None:
        """What an interrupted run has left of a stage, by target; the samples run up to it all the same."""
        solved = self._load(position, self.stages[position].targets)
        if solved is not None:
            self.skip(position, tell)
        return solved

    def resume_tied(self) -> dict[int, SolvedWeight] | None:
        """What an interrupted run has left of the tied weights, by target."""
        return self._load(len(self.stages), self.tied)

    def measure_tied(self, planned: Mapping[int, Planned]) -> list[Group]:
        """The inputs of the products that tied weights are too, of each weight that some sample reaches.

        They were measured in the original (`survey`): the products come after all that is computed from the tables.
        """
        found = [({index: p}, self._pools.take(None, self._later[p.key])) for index, p in planned.items()]
        return [(group, known.with_lookups(LOOKUPS)) for group, known in found if known is not None]

    def measure(self, position: int, planned: Mapping[int, Planned], tell: Tell) -> list[Group]:
        """Run all samples up to a stage and measure its inputs.

        Args:
            position: of the stage.
            planned: its targets whose weights are to be solved.
            tell: called after every sample.

        Returns:
            The targets in groups, each with the inputs of all who read these weights; without those to which no sample
            gives any.
        """
        own = self._measure(position, tell)
        groups = grouped(planned, self._later)
        found = [(group, self._pools.take(own, later)) for later, group in groups.items()]
        return [(group, statistics) for group, statistics in found if statistics is not None]

    def skip(self, position: int, tell: Tell) -> None:
        """Run all samples up to a stage about which nothing needs to be known, but for how its biases move."""
        if self._moves_later(position):
            self._measure(position, tell)
            return
        passage, index = self._places[position]
        self._statistics = None
        passage.streams.skip(index, self._tensor_file, tell)

    def save(self, position: int, solved: Mapping[int, SolvedWeight]) -> None:
        """Keep a finished stage for a resumed run."""
        self._job.graph.check_unchanged()  # a checkpoint belongs to the model that its identity names
        self._checkpoint.save(position, *joined(solved))

    def save_tied(self, solved: Mapping[int, SolvedWeight]) -> None:
        """Keep the tied weights for a resumed run."""
        self.save(len(self.stages), solved)

    def remember(self, solved: Mapping[int, SolvedWeight]) -> None:
        """Keep weights whose later readers have biases of their own to move."""
        for index, weight in solved.items():
            key = self._job.planned[index].key
            if self._has_bias(key):
                self._shared[key] = dump(self.folder, [dict(part) for part in weight.parts])

    def shift(self, position: int, index: int, solved: SolvedWeight | None) -> Float64Array | None:
        """How the bias behind a target moves, [N]; None where it stays."""
        if solved is not None:
            return solved.shift
        planned, statistics = self._job.planned[index], self._statistics
        known = self._shared.get(planned.key)
        if known is None or statistics is None or index not in self.biased(position):
            return None
        return bias_shift(planned.target.load(), load(known), planned.storage, planned.kernel, statistics)

    def weigh_rounding(self, position: int, solved: Mapping[int, SolvedWeight]) -> None:
        """Measure how much of the error of a stage's weights is its inputs' rounding."""
        for index, weight in solved.items():
            found = measure_rounding(self._job.planned[index], weight, self._places[position][0].streams.seen)
            if found is not None:
                self._rounding[index] = found

    def scale_inputs(self, position: int, solved: Mapping[int, SolvedWeight]) -> None:
        """Divide the inputs of a stage by what its weights were multiplied by, in the graph and in the streams."""
        scales = [weight.input_scale for weight in solved.values() if weight.input_scale is not None]
        place = self.fold_of(position)
        if scales and place is not None:
            fold(self._job.graph, place, scales[0], self._tensor_file)
            self._places[position][0].streams.scale(self.stages[position].source, scales[0])

    def end(self, position: int, tell: Tell) -> None:
        """Run what is left of a route behind its last stage; forget weights that nobody reads any more."""
        passage, index = self._places[position]
        for key in [key for key in self._shared if position >= max(self._later[key].others)]:
            remove(self._shared.pop(key))
        if index == len(passage.stages) - 1:
            passage.streams.finish(self._tensor_file, tell)

    def errors(self) -> dict[int, float]:
        """The relative error of each target's output, as the segments' kernels made it."""
        sums: dict[int, ErrorSum] = {}
        for passage in self._passages:
            for index, found in passage.errors().items():
                sums.setdefault(index, ErrorSum()).add([(found.error, found.sum_squares)])
        return {index: found.relative for index, found in sums.items()}

    def notes(self, reports: Sequence[TargetReport]) -> list[str]:
        """What went wrong, for the report.

        Args:
            reports: of all targets, in order.
        """
        left = self._samples - sum(len(self._given(batch)) for passage in self._passages for batch in passage.samples)
        dropped = dict[int, str]()
        for passage in self._passages:
            for index, name in passage.streams.dropped.items():
                dropped |= dict.fromkeys(self._given(passage.samples[index]), name)
            for index, texts in passage.streams.lost.items():
                members = self._members[passage.samples[index]]  # one, where a sample was given as several texts
                lost = {members[min(text, len(members) - 1)]: name for text, name in texts.items()}
                dropped |= {sample: name for sample, name in lost.items() if sample < self._samples}
        reached = [reports[index] for fresh in self._fresh for index in fresh]
        notes = data_notes(dropped, left, self._samples, reached, [reports[index] for index in self.unreached])
        more = (
            sharing_note(self._job, self._readers(reports)),
            rounding_note(dict(enumerate(self._job.planned)), self._rounding),
        )
        return [*notes, *filter(None, more)]

    def close(self) -> None:
        """Forget what is kept, and leave no file."""
        self._pools.close()
        for file in self._shared.values():
            remove(file)
        for passage in self._passages:
            passage.streams.close()

    def _given(self, batch: int) -> list[int]:
        """The samples of a batch that were given, and not put together from others."""
        return [sample for sample in self._members[batch] if sample < self._samples]

    def _load(self, position: int, targets: Collection[int]) -> dict[int, SolvedWeight] | None:
        """What an interrupted run has left of these targets, if all of it fits."""
        found = self._checkpoint.load(position)
        solved = None if found is None else parted(*found)
        if solved is None or not all(i in targets and _fits(self._job.planned[i], w) for i, w in solved.items()):
            return None
        return solved

    def _measure(self, position: int, tell: Tell) -> Statistics | None:
        passage, index = self._places[position]
        self._statistics = passage.measure(index, self._tensor_file, tell)
        return self._statistics

    def _moves_later(self, position: int) -> bool:
        """Whether a stage has biases to move behind weights that an earlier one has solved."""
        fresh = set(self.fresh(position)).intersection(self.biased(position))
        return any(self._job.planned[index].key in self._shared for index in fresh)

    def _readers(self, reports: Sequence[TargetReport]) -> dict[Hashable, list[Planned]]:
        """The nodes that read a calibrated weight at several stages of one route, by `Planned.key`."""
        found: dict[Hashable, list[Planned]] = {}
        for passage in self._passages:
            known: dict[Hashable, list[Planned]] = {}
            for index in (i for stage in passage.stages for i in stage.targets if reports[i].tokens):
                known.setdefault(self._job.planned[index].key, []).append(self._job.planned[index])
            found |= {key: own for key, own in known.items() if len(own) > 1 and key in self._later}
        return found

    def _has_bias(self, key: Hashable) -> bool:
        """Whether a later reader of a weight has a bias of its own that moves."""
        later = self._later.get(key, Later()).others
        return any(self._job.planned[index].key == key for position in later for index in self.biased(position))

    def _surveys(self) -> dict[Passage, list[int]]:
        """The stages of each route whose inputs must be known before anything is quantized."""
        wanted = {position for later in self._later.values() for position in (*later.same, *later.others)}
        found: dict[Passage, list[int]] = {passage: [] for passage in self._passages}
        for position in sorted(wanted):
            passage, index = self._places[position]
            found[passage].append(index)
        return found


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
        calibration.close()


def _fits(planned: Planned, weight: SolvedWeight) -> bool:
    """Whether a solved weight is one of this target."""
    rule, kernel, k = planned.storage, planned.kernel, planned.target.k
    rows = [len(next(iter(part.values()), ())) for part in weight.parts]
    return sum(rows) == planned.target.n and all(
        rule.fits(part, n, k, kernel) for part, n in zip(weight.parts, rows, strict=True)
    )
