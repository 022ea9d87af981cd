"""The two streams: every sample through the model as it is, and through the model as far as it is quantised."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxfq.calibrate.gram import Gram
from onnxfq.calibrate.stages import Stage
from onnxfq.feeds import Feed, token_masks
from onnxfq.graph import TWIN, Flow, Graph, Held, Spool, changed, excerpt
from onnxfq.session import Array, Session
from onnxfq.statistics import Float64Array, Statistics
from onnxfq.streaming import Runtime, Segment, Values, cut, held

_LOGGER = logging.getLogger(__name__)

Tell = Callable[[], None]  # called after every sample of every segment

_AT_ONCE = 1 << 20  # elements compared at once: logits of a long text would not fit in float64


@dataclass
class OutputError:
    """Squared error and squared size of a value, summed over samples."""

    error: float = 0.0
    energy: float = 0.0

    def add(self, original: Array, quantised: Array) -> None:
        """Add rows [rows, N] of both models; what is not finite in one of them counts in neither."""
        for start in range(0, len(original), max(1, _AT_ONCE // original.shape[1])):
            rows = slice(start, start + max(1, _AT_ONCE // original.shape[1]))
            y, twin = original[rows].astype(np.float64), quantised[rows].astype(np.float64)
            finite = np.isfinite(y) & np.isfinite(twin)
            self.error += float(np.square(y[finite] - twin[finite]).sum())
            self.energy += float(np.square(y[finite]).sum())

    @property
    def relative(self) -> float:
        """Error relative to size."""
        return self.error / self.energy if self.energy > 0 else 0.0


class Streams:
    """Runs samples through a model, stage by stage.

    Args:
        graph: the model; what was quantised so far is among its edits.
        flow: its data flow.
        stages: in order.
        points: for each stage, the values in which its error shows: outputs of its targets, after their biases.
        feeds: the samples.
        runtime: where and how to run.

    Attributes:
        dropped: samples that gave NaN or infinity, with the value in which they did.
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
    ) -> None:
        self._graph, self._flow, self._stages, self._runtime = graph, flow, stages, runtime
        sources = [stage.source for stage in stages]
        passed = {name for step in flow.ancestors(sources) for name in step.writes}
        left = [name for point in points for name in point if name not in passed]
        self._segments = cut(flow, [*([source] for source in sources), left])
        self._feeds, self._points = feeds, {p for point in points for p in point}
        self._values = Values(runtime.memory, runtime.folder)
        self._masks = [token_masks(feed, graph.signature) for feed in feeds]
        self._twins: set[str] = set()
        self._alive = list(range(len(feeds)))
        self.dropped: dict[int, str] = {}
        self.errors: dict[str, OutputError] = {}
        _LOGGER.debug("%d stages in %d segments, %d samples each", len(stages), len(self._segments), len(feeds))

    @property
    def runs(self) -> int:
        """How many runs of segments all stages take."""
        return len(self._segments) * len(self._feeds)

    @property
    def kept_bytes(self) -> int:
        """Bytes kept in memory for the segments to come."""
        return self._values.held

    def advance(self, index: int, spool: Spool, rounded_in: int | None, tell: Tell) -> Statistics | None:
        """Run all samples up to a stage, and measure its inputs; None where no sample gives any.

        Args:
            index: of the stage; one after the other.
            spool: holds what was quantised so far.
            rounded_in: columns that share a scale where the stage's kernels round their input to int8, else None.
            tell: called after every sample.
        """
        stage = self._stages[index]
        grams: list[Gram] = []
        for sample, found in self._run(self._segments[index], spool, tell):
            original, twin = self._source(stage.source, sample, found)
            if not grams:
                k = original.shape[0 if stage.transposed else -1]
                grams.append(
                    Gram(
                        original.dtype,
                        k,
                        crossed=twin is not None,
                        transposed=stage.transposed,
                        rounded_in=rounded_in,
                        provider=self._runtime.provider,
                        threads=self._runtime.threads,
                    )
                )
            count = original.size // max(1, original.shape[0 if stage.transposed else -1])
            grams[0].add(original, twin, _rows(self._masks[sample], count))
        statistics = grams[0].statistics() if grams and self._alive else None
        return statistics if statistics and statistics.tokens else None

    def finish(self, spool: Spool, tell: Tell) -> None:
        """Run what is left to know the error of every point."""
        for _ in self._run(self._segments[-1], spool, tell):
            pass
        self._values.clear()

    def scale(self, name: str, scale: Float64Array) -> None:
        """Divide a kept value [..., K] of the quantised model by a scale [K], as the edited model will."""
        for sample in self._alive:
            value = self._get(self._both(name)[-1], sample)
            self._values.put(name + TWIN, sample, (value / scale).astype(value.dtype))
        self._twins.add(name)

    def skip(self, index: int, spool: Spool, tell: Tell) -> None:
        """Run all samples up to a stage whose result is known already."""
        for _ in self._run(self._segments[index], spool, tell):
            pass

    def close(self) -> None:
        """Forget what is kept, and leave no file."""
        self._values.clear()

    def _run(self, segment: Segment, spool: Spool, tell: Tell) -> Iterable[tuple[int, Mapping[str, Array]]]:
        """Run a segment on every sample; what later segments want is kept, what nobody wants is freed."""
        self._twins |= changed(self._graph, segment.steps, self._twins)
        computed = {name for step in segment.steps for name in step.writes}
        points = [name for name in sorted(self._points & computed) if name in self._twins]
        outputs = [n for name in dict.fromkeys((*segment.keeps, *points)) for n in self._both(name)]
        inputs = [n for name in segment.reads for n in self._both(name)]
        session = self._session(segment, inputs, outputs, spool) if outputs and self._alive else None
        for sample in list(self._alive):
            found = session.run({name: self._get(name, sample) for name in inputs}) if session else {}
            tell()
            if self._is_bad(sample, found):
                continue
            for name in (n for kept in segment.keeps for n in self._both(kept)):
                self._values.put(name, sample, found[name])
            self._measure(sample, points, found)
            yield sample, found
        for name in segment.frees:
            self._values.free(name)
            self._values.free(name + TWIN)

    def _both(self, name: str) -> list[str]:
        return [name, name + TWIN] if name in self._twins else [name]

    def _session(self, segment: Segment, inputs: Sequence[str], outputs: Sequence[str], spool: Spool) -> Session:
        given = {name: self._held(name) for name in inputs}
        part = excerpt(self._graph, self._flow, segment.steps, given, outputs, self._twins, spool)
        runtime = self._runtime
        return Session(part.model, provider=runtime.provider, threads=runtime.threads, external_data_folder=part.folder)

    def _held(self, name: str) -> Held:
        first = self._alive[0]
        dtype = self._values.dtype(name, first) if name in self._values else self._feeds[first][name].dtype
        return held(name, dtype, [self._shape(name, sample) for sample in self._alive])

    def _shape(self, name: str, sample: int) -> tuple[int, ...]:
        return self._values.shape(name, sample) if name in self._values else self._feeds[sample][name].shape

    def _get(self, name: str, sample: int) -> Array:
        return self._values.get(name, sample) if name in self._values else self._feeds[sample][name]

    def _source(self, name: str, sample: int, found: Mapping[str, Array]) -> tuple[Array, Array | None]:
        """A stage's input in both streams; None for the second where it is the same."""
        both = [found[n] if n in found else self._get(n, sample) for n in self._both(name)]
        return both[0], both[1] if len(both) > 1 else None

    def _is_bad(self, sample: int, found: Mapping[str, Array]) -> bool:
        """Drop a sample that gives NaN or infinity in what is measured or kept."""
        for name, array in found.items():
            if array.dtype.kind in "fV" and name.removesuffix(TWIN) in self._sources and not np.isfinite(array).all():
                self.dropped[sample] = name.removesuffix(TWIN)
                self._alive.remove(sample)
                return True
        return False

    def _measure(self, sample: int, points: Sequence[str], found: Mapping[str, Array]) -> None:
        for name in points:
            y = found[name].reshape(-1, found[name].shape[-1])
            rows = _rows(self._masks[sample], len(y))
            self.errors.setdefault(name, OutputError()).add(y[rows], found[name + TWIN].reshape(y.shape)[rows])

    @property
    def _sources(self) -> set[str]:
        return {stage.source for stage in self._stages}


def _rows(masks: Sequence[Array], count: int) -> Array:
    """Which of so many tokens count: those of the mask that is about so many, all where there is none."""
    for mask in masks:
        if mask.size == count:
            return np.flatnonzero(mask)
    return np.arange(count)
