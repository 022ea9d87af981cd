"""Original against output: the same inputs through both, their difference, and how long each takes.

Models that do not fit into the memory are run piece by piece; then nothing can be said about time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from onnxfq.benchmarking.latency import Latency, compare_speed
from onnxfq.calibration.pieces import Pieces
from onnxfq.errors import ModelError, VerificationError
from onnxfq.feeds import Feeds
from onnxfq.graph import Graph
from onnxfq.metrics.metric import Metric
from onnxfq.metrics.output_accuracy import OutputAccuracy
from onnxfq.metrics.output_error import compare_outputs, run_both
from onnxfq.metrics.perplexity import PERPLEXITY, TokenLosses
from onnxfq.metrics.perplexity_text import Pair, PerplexityText
from onnxfq.progress import Progress
from onnxfq.quantization.comparison import Comparison, Inputs, run_pieces
from onnxfq.session import Session
from onnxfq.system.terminal import size_text

LATENCY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Validation:
    """What the comparison found.

    Attributes:
        outputs: errors of the outputs.
        in_sample: the same on samples that calibrated the output; empty where `outputs` are of those, or none did.
        latency: of each case; empty where models were run piece by piece.
        inputs: what `outputs` were measured on.
        untimed: why there is no latency; "" where there is.
        language: figures on texts.
    """

    outputs: tuple[OutputAccuracy, ...]
    in_sample: tuple[OutputAccuracy, ...]
    latency: tuple[Latency, ...]
    inputs: Inputs
    untimed: str = ""
    language: tuple[Metric, ...] = ()


def validate(graph: Graph, output: Path, comparison: Comparison, progress: Progress) -> Validation:
    """Compare the output with the original, and time both in turn where they fit into the memory.

    Args:
        graph: the original, as it was loaded.
        output: the file written.
        comparison: what was prepared.
        progress: told about long work.

    Raises:
        VerificationError: the output does not load where the original does.
    """
    inputs, losses = comparison.inputs, TokenLosses()
    passages, specs = inputs.passages, graph.signature.outputs
    with _running(graph, output, comparison, inputs.all_feeds, progress) as both:
        pairs = both.pairs(inputs.feeds, 0)
        if passages is not None and passages.shared:
            pairs = passages.watched(losses, pairs)
        outputs = compare_outputs(specs, pairs, comparison.reached)
        seen = inputs.in_sample
        in_sample = compare_outputs(specs, both.pairs(seen, len(inputs.feeds)), comparison.reached) if seen else []
        if passages is not None and not passages.shared:
            for done, _ in enumerate(passages.watched(losses, both.texts(passages, progress))):
                progress("perplexity", done, len(passages.feeds))
        latency, untimed = both.latency(inputs)
    language = _language(passages, losses)
    return Validation(tuple(outputs), tuple(in_sample), latency, inputs, untimed, language)


def judge(graph: Graph, output: Path, comparison: Comparison, progress: Progress) -> tuple[OutputAccuracy, ...]:
    """Only the errors that `validate` finds on `Inputs.feeds`.

    Raises:
        VerificationError: the output does not load where the original does.
    """
    feeds = comparison.inputs.feeds
    with _running(graph, output, comparison, feeds, progress) as both:
        return tuple(compare_outputs(graph.signature.outputs, both.pairs(feeds, 0), comparison.reached))


@contextmanager
def _running(
    graph: Graph, output: Path, comparison: Comparison, feeds: Feeds, progress: Progress
) -> Iterator[_Whole | _InPieces]:
    """Both models, ready to run on some feeds."""
    runtime, kept = comparison.runtime, comparison.original
    if kept is None:
        original = Session(graph.path, provider=runtime.provider, threads=runtime.threads)
        try:
            quantized = Session(output, provider=runtime.provider, threads=runtime.threads)
        except ModelError as error:
            raise does_not_run(error) from error
        yield _Whole(original, quantized)
        return
    try:
        pieces = run_pieces(Graph.load(output), feeds, runtime, "comparing with the original", progress)
    except ModelError as error:
        raise does_not_run(error) from error
    try:
        yield _InPieces(graph.path, output, comparison, kept, pieces)
    finally:
        pieces.close()


@dataclass(frozen=True, slots=True, eq=False)
class _Whole:
    """Both models in memory."""

    original: Session
    quantized: Session

    def pairs(self, feeds: Feeds, first: int) -> Iterator[Pair]:
        """What both give for feeds, of which the first is that many samples behind the beginning."""
        return run_both(self.original, self.quantized, feeds)

    def texts(self, passages: PerplexityText, progress: Progress) -> Iterable[Pair]:
        """What both give for texts that are there for the perplexity alone."""
        return run_both(self.original, self.quantized, passages.feeds, [passages.output])

    def latency(self, inputs: Inputs) -> tuple[tuple[Latency, ...], str]:
        """How long both take for each case, and why they were not timed."""
        cases = {"first sample" if inputs.decode is None else "prefill": inputs.feeds[0]}
        if inputs.decode is not None:
            cases["decode, 1 token"] = inputs.decode
        return compare_speed(self.original, self.quantized, cases, seconds=LATENCY_SECONDS), ""


@dataclass(frozen=True, slots=True, eq=False)
class _InPieces:
    """What both models gave, piece by piece."""

    source: Path
    output: Path
    comparison: Comparison
    original: Pieces
    quantized: Pieces

    def pairs(self, feeds: Feeds, first: int) -> Iterator[Pair]:
        return _kept(self.original, self.quantized, range(first, first + len(feeds)))

    def texts(self, passages: PerplexityText, progress: Progress) -> Iterable[Pair]:
        runtime, wanted = self.comparison.runtime, [passages.output]
        old, new = (
            run_pieces(Graph.load(path), passages.feeds, runtime, "perplexity", progress, wanted)
            for path in (self.source, self.output)
        )
        try:
            yield from _kept(old, new, range(len(passages.feeds)))
        finally:
            old.close()
            new.close()

    def latency(self, inputs: Inputs) -> tuple[tuple[Latency, ...], str]:
        loaded, memory = size_text(self.comparison.loaded), size_text(self.comparison.runtime.memory)
        return (), (
            f"Speed was not measured: the original takes about {loaded} of memory, more than `memory={memory}`. Both "
            "models were run piece by piece; a larger `memory` times them."
        )


def _kept(original: Pieces, quantized: Pieces, samples: range) -> Iterator[Pair]:
    return ((original.outputs(sample), quantized.outputs(sample)) for sample in samples)


def _language(passages: PerplexityText | None, losses: TokenLosses) -> tuple[Metric, ...]:
    """Figures on texts, each with where those came from."""
    if passages is None:
        return ()
    if not losses.tokens:
        return (replace(PERPLEXITY, note="no text has two tokens"),)
    metric = losses.perplexity()
    return (replace(metric, note=metric.note or f"texts {passages.feeds.origin}"),)


def does_not_run(error: ModelError) -> VerificationError:
    """That a written file does not load where the original does."""
    return VerificationError(f"The original runs, the quantized model does not. Please report this: {error}")
