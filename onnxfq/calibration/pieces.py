"""A model that is run piece by piece, every sample through one piece before the next is loaded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxfq.arrays import Array
from onnxfq.calibration.segments import Segment, cut
from onnxfq.calibration.values import Values
from onnxfq.errors import DataError
from onnxfq.feeds import Feed, always
from onnxfq.graph import Flow, Graph, Step, ValueInfo, extract_submodel, partition
from onnxfq.providers import ProviderName, facts
from onnxfq.session import Session
from onnxfq.system.allocator import return_memory

_LOGGER = logging.getLogger(__name__)

PART_OF_MEMORY = 4  # a piece may take that part of the memory; what is kept between pieces, twice as much


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where and how parts of a model run.

    Attributes:
        provider: where they run.
        threads: inside an operator; None leaves the choice to ONNX Runtime.
        memory: bytes.
        folder: takes what does not fit in memory.
    """

    provider: ProviderName
    threads: int | None
    memory: int
    folder: Path


class Pieces:
    """Runs samples through a model of which only one piece is in memory at a time.

    Args:
        graph: the model, without edits.
        feeds: the samples.
        runtime: where and how; a single step whose weights alone exceed the memory runs all the same.
        outputs: the model's outputs that are wanted; None for all.
        values: others that are wanted too, of the model's main graph; those that samples do not reach are left out.
    """

    def __init__(
        self,
        graph: Graph,
        feeds: Sequence[Feed],
        runtime: Runtime,
        outputs: Sequence[str] | None = None,
        values: Sequence[str] = (),
    ) -> None:
        self._graph, self._feeds, self._runtime = graph, feeds, runtime
        self._flow = Flow(graph, lambda name: always(feeds, name), fed=feeds[0])
        self._names = [s.name for s in graph.signature.outputs if outputs is None or s.name in outputs]
        computed = {name for step in self._flow.steps for name in step.writes} - set(self._flow.static) | set(feeds[0])
        self._names += [name for name in values if name in computed and name not in self._names]
        steps = self._flow.ancestors(self._names)
        limit, widens = runtime.memory // PART_OF_MEMORY, facts(runtime.provider).widens_half
        parts = partition(graph, self._flow, steps, limit, widens=widens)
        self._segments = cut(self._flow, _passed(parts, self._names))
        self._values = Values(2 * limit, runtime.folder)
        _LOGGER.debug("%s runs in %d pieces, %d samples each", graph.path, len(self._segments), len(feeds))

    @property
    def runs(self) -> int:
        """How many runs of pieces there will be."""
        return len(self._segments) * len(self._feeds)

    def run(self, tell: Callable[[], None] = lambda: None) -> None:
        """Run all samples.

        Args:
            tell: called after every sample of every piece.

        Raises:
            DataError: a sample does not fit.
            ModelError: a piece does not run.
            OutputError: what is kept does not fit on the disk.
        """
        for position, segment in enumerate(self._segments):
            self._run(segment, last=position == len(self._segments) - 1, tell=tell)

    def outputs(self, sample: int) -> dict[str, Array]:
        """The model's outputs for a sample; those that are no arrays, or constants of the model, are left out."""
        known = (name for name in self._names if name in self._values or name in self._feeds[sample])
        return {name: self._get(name, sample) for name in known}

    def close(self) -> None:
        """Forget what is kept, and leave no file."""
        self._values.clear()

    def _run(self, segment: Segment, *, last: bool, tell: Callable[[], None]) -> None:
        steps = {name for step in segment.steps for name in step.writes}
        fixed = [name for name in self._names if last and name in self._flow.static and name in steps]
        outputs = list(dict.fromkeys((*segment.keeps, *fixed)))
        session = self._session(segment, outputs) if outputs else None
        for sample in range(len(self._feeds)):
            found = session.run({name: self._get(name, sample) for name in segment.reads}) if session else {}
            for name, value in found.items():
                self._values.put(name, sample, value)
            tell()
        for name in set(segment.frees) - set(self._names):
            self._values.free(name)
        del session
        return_memory()

    def _session(self, segment: Segment, outputs: Sequence[str]) -> Session:
        given = {name: self._held(name) for name in segment.reads}
        part = extract_submodel(self._graph, self._flow, segment.steps, given, outputs, frozenset(), None)
        return Session(
            part.model,
            provider=self._runtime.provider,
            threads=self._runtime.threads,
            external_data_folder=part.folder,
            passing=True,
        )

    def _get(self, name: str, sample: int) -> Array:
        return self._values.get(name, sample) if name in self._values else self._feeds[sample][name]

    def _held(self, name: str) -> ValueInfo:
        samples = range(len(self._feeds))
        if name in self._values:
            return held(name, self._values.dtype(name, 0), [self._values.shape(name, s) for s in samples])
        return held(name, self._feeds[0][name].dtype, [self._feeds[s][name].shape for s in samples])


def held(name: str, dtype: np.dtype[np.generic], shapes: Iterable[tuple[int, ...]]) -> ValueInfo:
    """What a value looks like: sizes that all samples share are fixed, which lets ONNX Runtime optimize more.

    Raises:
        DataError: samples differ in their number of dimensions.
    """
    different = set(shapes)
    ranks = {len(shape) for shape in different}
    if len(ranks) > 1:
        raise DataError(f"'{name}' has different numbers of dimensions in different samples. Give samples alike.")
    sizes = [{shape[axis] for shape in different} for axis in range(ranks.pop())]
    return ValueInfo(dtype, tuple(next(iter(s)) if len(s) == 1 else None for s in sizes))


def _passed(parts: Sequence[Sequence[Step]], outputs: Sequence[str]) -> list[Sequence[str]]:
    """What each part hands on to later ones, or, in the end, to the caller."""
    wanted = set(outputs)
    passed: list[Sequence[str]] = []
    for part in reversed(parts):
        passed.append([name for step in part for name in step.writes if name in wanted])
        wanted.update(name for step in part for name in step.reads)
    return [*passed[:0:-1], list(outputs)] if passed else [list(outputs)]
