"""The two streams: every sample through the model as it is, and through the model as far as it is quantized."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from onnxfq.arrays import Array, Float64Array
from onnxfq.calibration.pieces import PART_OF_MEMORY, Runtime, held
from onnxfq.calibration.segments import Segment, cut
from onnxfq.calibration.shards import (
    SHARD_TOKENS,
    Known,
    Measured,
    Outcome,
    Program,
    Running,
    Shard,
    Squares,
    count_tokens,
    inputs_together,
    one_of,
    run_shard,
    token_rows,
)
from onnxfq.calibration.stages import Stage
from onnxfq.calibration.statistics_session import Gram, Totals
from onnxfq.calibration.values import Values
from onnxfq.executors.executor import HERE, Workers
from onnxfq.executors.serialization import dump, dumped, load, remove, sweep
from onnxfq.feeds import Feed, text_count, token_masks
from onnxfq.graph import QUANTIZED_SUFFIX, Flow, Graph, TensorFile, ValueInfo, changed, extract_submodel
from onnxfq.held_tokens import HeldTokens, together
from onnxfq.statistics import Statistics

_LOGGER = logging.getLogger(__name__)

_LOOKED_AT = 16  # samples, and rows of each
_TEXTS = 4  # of a sample that is several, at most

Tell = Callable[[], None]  # called after every sample of every segment


@dataclass
class ErrorSum:
    """Squared error and squared size of a value, summed over samples."""

    error: float = 0.0
    sum_squares: float = 0.0

    def add(self, squares: Iterable[Squares]) -> None:
        """Add what a sample gives, a few rows at a time."""
        for error, sum_squares in squares:
            self.error += error
            self.sum_squares += sum_squares

    @property
    def relative(self) -> float:
        """Error relative to size."""
        return self.error / self.sum_squares if self.sum_squares > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Residual:
    """What the product of one of a stage's targets is added to.

    Attributes:
        target: position of the target.
        names: of the values.
        n: their columns.
    """

    target: int
    names: tuple[str, ...]
    n: int


class Streams:
    """Runs samples through a model, stage by stage.

    Args:
        graph: the model; what was quantized so far is among its edits.
        flow: its data flow.
        stages: in order.
        points: for each stage, the values in which its error shows: outputs of its targets, after their biases.
        feeds: the samples.
        runtime: where and how to run.
        residuals: of each stage, what its product is added to; empty for all without.
        held: samples that are held back from the statistics.
        workers: who runs it.

    Attributes:
        dropped: samples that gave NaN or infinity, with the value in which they did.
        lost: of samples that are several texts, those that did.
        seen: [tokens, K], some inputs of the stage that was run up to last, in the quantized model.
        errors: of each point computed so far.
    """

    def __init__(
        self,
        graph: Graph,
        flow: Flow,
        stages: Sequence[Stage],
        points: Sequence[Sequence[str]],
        feeds: Sequence[Feed],
        runtime: Runtime,
        workers: Workers = HERE,
        *,
        residuals: Sequence[Residual | None] = (),
        held: Collection[int] = (),
    ) -> None:
        self._workers = workers
        self._graph, self._flow, self._stages, self._runtime = graph, flow, stages, runtime
        sources = [stage.source for stage in stages]
        passed = {name for step in flow.ancestors(sources) for name in step.writes}
        left = [name for point in points for name in point if name not in passed]
        self._residuals = list(residuals) or [None] * len(stages)
        self._segments = cut(
            flow, [*([s, *(r.names if r else ())] for s, r in zip(sources, self._residuals, strict=True)), left]
        )
        self._held_back, self._held_tokens = frozenset(held), list[HeldTokens]()
        self._feeds, self._points = feeds, {p for point in points for p in point}
        self._values = Values(runtime.memory, runtime.folder)
        self._masks = [token_masks(feed, graph.signature) for feed in feeds]
        self._texts = [text_count(feed, graph.signature) for feed in feeds]
        self._twins: set[str] = set()
        self._alive = list(range(len(feeds)))
        tokens = [count_tokens(feed, masks) for feed, masks in zip(feeds, self._masks, strict=True)]
        self._shards, self._longest = _shards(tokens), max(tokens, default=0)
        self.dropped: dict[int, str] = {}
        self.lost: dict[int, dict[int, str]] = {}
        self.seen: Float64Array = np.empty((0, 0))
        self.errors: dict[str, ErrorSum] = {}
        _LOGGER.debug("%d stages in %d segments, %d samples each", len(stages), len(self._segments), len(feeds))

    @property
    def runs(self) -> int:
        """How many runs of segments all stages take."""
        return len(self._segments) * len(self._feeds)

    @property
    def kept_bytes(self) -> int:
        """Bytes kept in memory for the segments to come."""
        return self._values.held

    def advance(self, index: int, tensor_file: TensorFile, rounded_in: int | None, tell: Tell) -> Statistics | None:
        """Run all samples up to a stage, and measure its inputs; None where no sample gives any.

        Args:
            index: of the stage; one after the other.
            tensor_file: holds what was quantized so far.
            rounded_in: columns that share a scale where the stage's kernels round their input to int8, else None.
            tell: called after every sample.
        """
        statistics = self._run(index, tensor_file, tell, rounded_in=rounded_in, measure=True)
        return statistics if statistics and statistics.tokens and self._alive else None

    def finish(self, tensor_file: TensorFile, tell: Tell) -> None:
        """Run what is left to know the error of every point."""
        self._run(len(self._segments) - 1, tensor_file, tell)
        self._values.clear()

    def scale(self, name: str, scale: Float64Array) -> None:
        """Divide a kept value [..., K] of the quantized model by a scale [K], as the edited model will."""
        for sample in self._alive:
            value = self._get(self._both(name)[-1], sample)
            self._values.put(name + QUANTIZED_SUFFIX, sample, (value / scale).astype(value.dtype))
        self._twins.add(name)

    def skip(self, index: int, tensor_file: TensorFile, tell: Tell) -> None:
        """Run all samples up to a stage whose result is known already."""
        self._run(index, tensor_file, tell)

    def close(self) -> None:
        """Forget what is kept, and leave no file."""
        self._values.clear()
        sweep(self._runtime.folder)

    def _run(
        self, index: int, tensor_file: TensorFile, tell: Tell, *, rounded_in: int | None = None, measure: bool = False
    ) -> Statistics | None:
        """Run a segment on every sample; what later segments want is kept, what nobody wants is freed."""
        segment = self._segments[index]
        self._twins |= changed(self._graph, segment.steps, self._twins)
        measured = self._measured(index, rounded_in) if measure else None
        program = self._program(segment, measured, tensor_file)
        run = self._run_elsewhere if self._workers.elsewhere and self._alive else self._run_here
        sums = run(program, tell)
        if index < len(self._stages):
            self.seen = self._look_at(self._stages[index])
        for name in segment.frees:
            self._values.free(name)
            self._values.free(name + QUANTIZED_SUFFIX)
        held, self._held_tokens = together(self._held_tokens), []
        return replace(sums.statistics(), held=held) if sums else None

    def _measured(self, index: int, rounded_in: int | None) -> Measured:
        stage, residual = self._stages[index], self._residuals[index]
        names = tuple(name for name in residual.names if name in self._twins) if residual else ()
        source, n = tuple(self._both(stage.source)), residual.n if residual and names else 0
        return Measured(source, stage.transposed, rounded_in, stage.k, stage.part, names, n)

    def _look_at(self, stage: Stage) -> Float64Array:
        """Some rows of a stage's inputs: of a few samples, spread over each; of more where samples are short."""
        found = [np.empty((0, stage.k))]
        for sample in self._alive:
            if sum(map(len, found)) >= _LOOKED_AT**2:
                break
            value = self._get(self._both(stage.source)[-1], sample)
            if stage.part is not None:
                value = one_of(value, stage.part)
            if value.ndim < 1 + stage.transposed:
                continue
            value = np.swapaxes(value, -1, -2) if stage.transposed else inputs_together(value, stage.k)
            if value.shape[-1] != stage.k:
                continue
            flat = value.reshape(-1, stage.k)
            rows = token_rows(self._masks[sample], len(flat))
            texts = np.array_split(rows, self._texts[sample])[:_TEXTS]
            chosen = [own[:: max(1, len(own) // _LOOKED_AT)][:_LOOKED_AT] for own in texts]
            found.append(flat[np.concatenate(chosen)].astype(np.float64))
        return np.concatenate(found)

    def _program(self, segment: Segment, measured: Measured | None, tensor_file: TensorFile) -> Program:
        computed = {name for step in segment.steps for name in step.writes}
        points = [name for name in sorted(self._points & computed) if name in self._twins]
        keeps = [n for name in segment.keeps for n in self._both(name)]
        outputs = [n for name in dict.fromkeys((*segment.keeps, *points)) for n in self._both(name)]
        inputs = [n for name in segment.reads for n in self._both(name)]
        part = None
        if outputs and self._alive:
            given = {name: self._held(name) for name in inputs}
            part = extract_submodel(self._graph, self._flow, segment.steps, given, outputs, self._twins, tensor_file)
        sources = frozenset(stage.source for stage in self._stages)
        runtime = self._runtime
        return Program(
            part,
            tuple(inputs) if part else (),
            tuple(keeps),
            tuple(points),
            sources,
            measured,
            runtime.provider,
            runtime.threads,
            self._longest,
        )

    def _run_here(self, program: Program, tell: Tell) -> Gram | None:
        running = Running(program)
        for shard in self._shards:
            samples = self._living(shard)
            for sample, outcome in zip(samples, running.run(self._known(samples, program)), strict=True):
                self._take(sample, outcome, tell)
            running.end_shard()
        return running.gram

    def _run_elsewhere(self, program: Program, tell: Tell) -> Totals | None:
        """Run every shard in another process; what passes between goes through files."""
        folder, totals = self._runtime.folder, list[Totals]()
        shards = [samples for shard in self._shards if (samples := self._living(shard))]
        lent = list[Path]()
        with dumped(folder, program) as file:
            try:
                tasks = (self._lend(shard, program, file, lent) for shard in shards)
                memory = self._runtime.memory // PART_OF_MEMORY
                for shard, result in zip(shards, self._workers.in_order(run_shard, tasks, memory), strict=True):
                    outcomes, chunks = load(result)
                    for sample, outcome in zip(shard, outcomes, strict=True):
                        self._take(sample, outcome, tell)
                    for chunk in chunks:
                        totals = totals or [Totals(chunk.vectors["sum"].size)]
                        totals[0].add(chunk)
                    remove(lent.pop(0))
            finally:
                for left in lent:
                    remove(left)
        return totals[0] if totals else None

    def _lend(self, samples: Sequence[int], program: Program, file: Path, lent: list[Path]) -> Shard:
        """Write down what a shard needs to know of its samples."""
        lent.append(dump(self._runtime.folder, list(self._known(samples, program))))
        sources = tuple(path.absolute() for path in self._graph.files)
        return Shard(file, lent[-1], lent[-1].stat().st_size, sources)

    def _known(self, samples: Iterable[int], program: Program) -> Iterator[Known]:
        """What a segment needs to know of each sample."""
        for sample in samples:
            given = {name: self._get(name, sample) for name in program.given}
            yield given, self._masks[sample], sample in self._held_back, self._texts[sample]

    def _living(self, samples: Iterable[int]) -> list[int]:
        return [sample for sample in samples if sample in self._alive]

    def _take(self, sample: int, outcome: Outcome, tell: Tell) -> None:
        """Keep what came of a sample; one that gives NaN or infinity in what is measured or kept is dropped."""
        tell()
        if outcome.bad:
            self.dropped[sample] = outcome.bad
            self._alive.remove(sample)
            return
        if outcome.masks is not None:
            self._masks[sample] = outcome.masks
            self.lost.setdefault(sample, {}).update(outcome.lost)
        if outcome.held is not None:
            self._held_tokens.append(outcome.held)
        for name, value in outcome.kept.items():
            self._values.put(name, sample, value)
        for name, squares in outcome.errors.items():
            self.errors.setdefault(name, ErrorSum()).add(squares)

    def _both(self, name: str) -> list[str]:
        return [name, name + QUANTIZED_SUFFIX] if name in self._twins else [name]

    def _held(self, name: str) -> ValueInfo:
        first = self._alive[0]
        dtype = self._values.dtype(name, first) if name in self._values else self._feeds[first][name].dtype
        return held(name, dtype, [self._shape(name, sample) for sample in self._alive])

    def _shape(self, name: str, sample: int) -> tuple[int, ...]:
        return self._values.shape(name, sample) if name in self._values else self._feeds[sample][name].shape

    def _get(self, name: str, sample: int) -> Array:
        return self._values.get(name, sample) if name in self._values else self._feeds[sample][name]


def _shards(tokens: Sequence[int]) -> list[range]:
    """Samples in groups of about `SHARD_TOKENS` tokens: nothing but the data decides, so that sums are always alike."""
    shards, start, total = list[range](), 0, 0
    for sample, count in enumerate(tokens):
        total += count
        if total >= SHARD_TOKENS or sample == len(tokens) - 1:
            shards.append(range(start, sample + 1))
            start, total = sample + 1, 0
    return shards
