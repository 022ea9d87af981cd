"""Original against output: the same inputs through both, their difference, and how long each takes.

Models that do not fit into the memory are run piece by piece; then nothing can be said about time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from onnxfq.benchmarking.latency import Latency, compare_latency
from onnxfq.calibration.pieces import Pieces, Runtime
from onnxfq.errors import ModelError, VerificationError
from onnxfq.feeds import Feed, Feeds, generate, has_cache
from onnxfq.graph import Graph, loaded_bytes
from onnxfq.metrics.metric import Metric
from onnxfq.metrics.output_error import OutputAccuracy, compare_outputs, run_both, run_reference
from onnxfq.metrics.perplexity import PERPLEXITY, TokenLosses, sees_later_tokens
from onnxfq.metrics.perplexity_text import Outputs, Pair, PerplexityText
from onnxfq.progress import Progress
from onnxfq.providers import facts
from onnxfq.session import Session
from onnxfq.signature import Signature
from onnxfq.system.terminal import size_text

GENERATED_SAMPLES = 8
GENERATED_TOKENS = 64
LATENCY_SECONDS = 2.0
WITHOUT_RUNNING = "To quantize it without running it: `validate=False`, and no `calib`."
_WITHOUT_COMPARING = "To quantize it without comparing it with the original: `validate=False`."


@dataclass(frozen=True, slots=True)
class Inputs:
    """What both models will be fed with.

    Attributes:
        feeds: for accuracy; the first also for latency.
        decode: one decoding step after some cached tokens, for models with a KV cache; else None.
        passages: for the perplexity; None where it is not wanted, or the model is no language model.
    """

    feeds: Feeds
    decode: Feed | None
    passages: PerplexityText | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is known of the original before the long work.

    Attributes:
        inputs: what both models are fed with.
        runtime: where and how both run.
        loaded: bytes that a session of the original takes.
        original: has run on all inputs, piece by piece; None where the model fits into the memory as a whole.
    """

    inputs: Inputs
    runtime: Runtime
    loaded: int
    original: Pieces | None = None


@dataclass(frozen=True, slots=True)
class Validation:
    """What the comparison found.

    Attributes:
        outputs: errors of the outputs.
        latency: of each case; empty where models were run piece by piece.
        inputs: where those came from.
        untimed: why there is no latency; "" where there is.
        language: figures on texts.
    """

    outputs: tuple[OutputAccuracy, ...]
    latency: tuple[Latency, ...]
    inputs: str
    untimed: str = ""
    language: tuple[Metric, ...] = ()


def prepare_inputs(
    signature: Signature,
    given: Feeds | None,
    *,
    samples: int,
    seq_len: int,
    seed: int,
    passages: PerplexityText | None = None,
) -> Inputs:
    """The inputs of the comparison: those given, or some made up; texts for the perplexity besides.

    Raises:
        DataError: none can be made up.
    """
    tokens = min(seq_len, GENERATED_TOKENS)
    feeds = given or generate(signature, samples=min(samples, GENERATED_SAMPLES), seq_len=tokens, seed=seed)
    decode = None
    if has_cache(signature):
        decode = generate(signature, samples=1, seq_len=1, seed=seed, past=tokens)[0]
    return Inputs(feeds, decode, passages)


def prepare_comparison(
    graph: Graph, inputs: Inputs, runtime: Runtime, progress: Progress, *, calibrated: bool
) -> Comparison:
    """Run the original, so that inputs that do not suit it fail before the long work.

    A model that fits into the memory is run once; another one on all inputs, piece by piece, and what it gives is kept.

    Args:
        graph: the original.
        inputs: for both models.
        runtime: where and how.
        progress: told about every step.
        calibrated: the model has to run for the solver too, not for the comparison alone.

    Raises:
        ModelError: the original does not load or run.
        DataError: it does not run on these inputs.
        OutputError: what is kept does not fit on the disk.
    """
    loaded = loaded_bytes(graph, widens=facts(runtime.provider).widens_half)
    try:
        if loaded > runtime.memory:
            pieces = _in_pieces(graph, inputs.feeds, runtime, "running the original", progress)
            _check_passages(graph, inputs.passages, lambda feeds: _run_in_pieces(graph, feeds, inputs, runtime))
            return Comparison(inputs, runtime, loaded, pieces)
        session = Session(graph.path, provider=runtime.provider, threads=runtime.threads)
        run_reference(session, inputs.feeds[0], generated=inputs.feeds.is_generated)
        _check_passages(graph, inputs.passages, lambda feeds: [session.run(feed) for feed in feeds])
    except ModelError as error:
        raise ModelError(f"{error} {WITHOUT_RUNNING if calibrated else _WITHOUT_COMPARING}") from error
    return Comparison(inputs, runtime, loaded)


def _check_passages(graph: Graph, passages: PerplexityText | None, run: Callable[[Feeds], Sequence[Outputs]]) -> None:
    """Refuse a model that has no perplexity on the first text; one with a cache of tokens cannot see later ones."""
    if passages is None:
        return
    if has_cache(graph.signature):
        (found,) = run(passages.feeds[:1])
        passages.add(TokenLosses(), 0, found, found)
    elif passages.sees_later_tokens(run):
        raise ModelError(f"{sees_later_tokens(str(graph.path))} Leave out `max_ppl_increase` and `eval_text`.")


def _run_in_pieces(graph: Graph, feeds: Feeds, inputs: Inputs, runtime: Runtime) -> Sequence[Outputs]:
    wanted = None if inputs.passages is None else [inputs.passages.output]
    pieces = Pieces(graph, feeds, runtime, wanted)
    pieces.run()
    found = [pieces.outputs(sample) for sample in range(len(feeds))]
    pieces.close()
    return found


def _in_pieces(
    graph: Graph, feeds: Feeds, runtime: Runtime, what: str, progress: Progress, outputs: Sequence[str] | None = None
) -> Pieces:
    pieces = Pieces(graph, feeds, runtime, outputs)
    done = count()
    pieces.run(lambda: progress(what, next(done), pieces.runs))
    return pieces


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
    inputs, runtime = comparison.inputs, comparison.runtime
    if comparison.original is not None:
        return _validate_pieces(graph, output, comparison, comparison.original, progress)
    original = Session(graph.path, provider=runtime.provider, threads=runtime.threads)
    try:
        quantized = Session(output, provider=runtime.provider, threads=runtime.threads)
    except ModelError as error:
        raise _does_not_run(error) from error
    losses, passages = TokenLosses(), inputs.passages
    pairs = run_both(original, quantized, inputs.feeds)
    if passages is not None and passages.shared:
        pairs = passages.watched(losses, pairs)
    outputs = compare_outputs(graph.signature.outputs, pairs)
    if passages is not None and not passages.shared:
        _read(passages, losses, run_both(original, quantized, passages.feeds, [passages.output]), progress)
    cases = {"first sample" if inputs.decode is None else "prefill": inputs.feeds[0]}
    if inputs.decode is not None:
        cases["decode, 1 token"] = inputs.decode
    latency = [
        compare_latency(original, quantized, feed, case=case, seconds=LATENCY_SECONDS) for case, feed in cases.items()
    ]
    return Validation(tuple(outputs), tuple(latency), inputs.feeds.origin, language=_language(passages, losses))


def _read(passages: PerplexityText, losses: TokenLosses, pairs: Iterable[Pair], progress: Progress) -> None:
    """Run both models on texts that are there for the perplexity alone."""
    for done, _ in enumerate(passages.watched(losses, pairs)):
        progress("perplexity", done, len(passages.feeds))


def _language(passages: PerplexityText | None, losses: TokenLosses) -> tuple[Metric, ...]:
    """Figures on texts, each with where those came from."""
    if passages is None:
        return ()
    if not losses.tokens:
        return (replace(PERPLEXITY, note="no text has two tokens"),)
    metric = losses.perplexity()
    return (replace(metric, note=metric.note or f"texts {passages.feeds.origin}"),)


def _validate_pieces(
    graph: Graph, output: Path, comparison: Comparison, original: Pieces, progress: Progress
) -> Validation:
    inputs, runtime = comparison.inputs, comparison.runtime
    try:
        quantized = _in_pieces(Graph.load(output), inputs.feeds, runtime, "comparing with the original", progress)
    except ModelError as error:
        raise _does_not_run(error) from error
    losses, passages = TokenLosses(), inputs.passages
    pairs = _kept(original, quantized, len(inputs.feeds))
    if passages is not None and passages.shared:
        pairs = passages.watched(losses, pairs)
    outputs = compare_outputs(graph.signature.outputs, pairs)
    original.close()
    quantized.close()
    if passages is not None and not passages.shared:
        old, new = (
            _in_pieces(Graph.load(path), passages.feeds, runtime, "perplexity", progress, [passages.output])
            for path in (graph.path, output)
        )
        _read(passages, losses, _kept(old, new, len(passages.feeds)), progress)
        old.close()
        new.close()
    untimed = (
        f"Speed was not measured: the original takes about {size_text(comparison.loaded)} of memory, more than "
        f"`memory={size_text(runtime.memory)}`. Both models were run piece by piece; a larger `memory` times them."
    )
    return Validation(tuple(outputs), (), inputs.feeds.origin, untimed, _language(passages, losses))


def _kept(original: Pieces, quantized: Pieces, samples: int) -> Iterator[Pair]:
    return ((original.outputs(sample), quantized.outputs(sample)) for sample in range(samples))


def _does_not_run(error: ModelError) -> VerificationError:
    return VerificationError(f"The original runs, the quantized model does not. Please report this: {error}")
