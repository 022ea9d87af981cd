"""The errors of many files of one model, one after the other: what the original gives is computed once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from onnxfq.arrays import Array
from onnxfq.errors import ModelError
from onnxfq.graph import Graph
from onnxfq.metrics.output_accuracy import OutputAccuracy
from onnxfq.metrics.output_error import compare_outputs
from onnxfq.progress import silent
from onnxfq.quantization.comparison import Comparison
from onnxfq.quantization.mix_error import MixError
from onnxfq.quantization.validate import does_not_run, judge
from onnxfq.session import Session

MOST_ELEMENTS = 1 << 23  # of outputs over all samples: of logits of large vocabularies, every so many rows tell enough


class Judge:
    """Measures files.

    Args:
        graph: the original, as it was loaded.
        comparison: what was prepared.
        measure: makes one figure of all outputs, and says which of them count.
    """

    def __init__(self, graph: Graph, comparison: Comparison, measure: MixError) -> None:
        self._graph, self._comparison, self._measure = graph, comparison, measure
        wanted = measure.wanted(graph.signature.outputs)
        self._specs = [spec for spec in graph.signature.outputs if spec.name in wanted]
        self._kept: list[dict[str, Array]] = []
        self._step = 1
        if comparison.original is None:
            self._run_original()

    def error(self, file: Path) -> float:
        """The error of a file; infinite where an output is broken.

        Raises:
            VerificationError: it does not load where the original does.
        """
        return self._measure(self._outputs(file))

    def _outputs(self, file: Path) -> tuple[OutputAccuracy, ...]:
        runtime, feeds = self._comparison.runtime, self._comparison.inputs.feeds
        if not self._kept:  # too large to be run as a whole
            found = judge(self._graph, file, self._comparison, silent)
            return tuple(one for one in found if any(one.name == spec.name for spec in self._specs))
        try:
            session = Session(file, provider=runtime.provider, threads=runtime.threads)
        except ModelError as error:
            raise does_not_run(error) from error
        names = [spec.name for spec in self._specs if spec.name in session.array_outputs()]
        pairs = ((kept, self._thinned(session.run(feed, names))) for kept, feed in zip(self._kept, feeds, strict=True))
        return tuple(compare_outputs(self._specs, pairs, self._comparison.reached))

    def _run_original(self) -> None:
        runtime, feeds = self._comparison.runtime, self._comparison.inputs.feeds
        session = Session(self._graph.path, provider=runtime.provider, threads=runtime.threads)
        names = [spec.name for spec in self._specs if spec.name in session.array_outputs()]
        for feed in feeds:
            outputs = session.run(feed, names)
            if not self._kept:
                count = len(feeds) * sum(array.size for array in outputs.values())
                self._step = max(1, -(-count // MOST_ELEMENTS))
            self._kept.append(self._thinned(outputs))

    def _thinned(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """Every so many rows of the outputs, the last axis whole."""
        return {
            name: array[..., :: self._step, :].copy() if array.ndim > 1 and self._step > 1 else array
            for name, array in outputs.items()
        }
