"""What the output will be compared with the original on, tried out on the original before the long work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Literal

from onnxfq.calibration.pieces import Pieces, Runtime
from onnxfq.errors import ModelError
from onnxfq.feeds import Feed, Feeds, generate, has_cache
from onnxfq.graph import Graph, loaded_bytes
from onnxfq.metrics.output_error import run_reference
from onnxfq.metrics.perplexity import TokenLosses, sees_later_tokens
from onnxfq.metrics.perplexity_text import Outputs, PerplexityText
from onnxfq.progress import Progress
from onnxfq.providers import facts
from onnxfq.quantization.livelier import livelier
from onnxfq.session import Session
from onnxfq.signature import Signature

GENERATED_SAMPLES = 8
GENERATED_TOKENS = 64
WITHOUT_RUNNING = "To quantize it without running it: `validate=False`, and no `calib`."
_WITHOUT_COMPARING = "To quantize it without comparing it with the original: `validate=False`."
MeasuredOn = Literal["held-out", "in-sample", "generated", ""]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What both models will be fed with.

    Attributes:
        feeds: for accuracy; the first also for latency.
        measured_on: what they are to calibration: "held-out" from it, the very samples that it was fitted to
            ("in-sample"), or "generated".
        in_sample: some of the samples that calibrate, whose error is told beside that of held-out ones.
        decode: one decoding step after some cached tokens, for models with a KV cache; else None.
        passages: for the perplexity; None where it is not wanted, or the model is no language model.
    """

    feeds: Feeds
    measured_on: MeasuredOn
    in_sample: Feeds | None = None
    decode: Feed | None = None
    passages: PerplexityText | None = None

    @property
    def all_feeds(self) -> Feeds:
        """Those for accuracy, then those of the samples that calibrate."""
        more = self.in_sample.samples if self.in_sample else ()
        return Feeds((*self.feeds.samples, *more), self.feeds.origin, self.feeds.is_generated)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is known of the original before the long work.

    Attributes:
        inputs: what both models are fed with.
        runtime: where and how both run.
        loaded: bytes that a session of the original takes.
        original: has run on all inputs, piece by piece; None where the model fits into the memory as a whole.
        reached: the outputs that a quantized weight will reach.
        notes: what the user should know of the inputs.
    """

    inputs: Inputs
    runtime: Runtime
    loaded: int
    original: Pieces | None = None
    reached: frozenset[str] | None = None
    notes: tuple[str, ...] = ()

    def close(self) -> None:
        """Forget what the original gave."""
        if self.original is not None:
            self.original.close()


def prepare_inputs(
    signature: Signature,
    given: Feeds | None,
    measured_on: MeasuredOn,
    *,
    samples: int,
    seq_len: int,
    seed: int,
    in_sample: Feeds | None = None,
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
    return Inputs(feeds, measured_on if given else "generated", in_sample, decode, passages)


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
            pieces = run_pieces(graph, inputs.all_feeds, runtime, "running the original", progress)
            _check_passages(graph, inputs.passages, lambda feeds: _run_in_pieces(graph, feeds, inputs, runtime))
            return Comparison(inputs, runtime, loaded, pieces)
        session = Session(graph.path, provider=runtime.provider, threads=runtime.threads)
        run_reference(session, inputs.feeds[0], generated=inputs.feeds.is_generated)
        inputs, notes = _made_livelier(inputs, graph.signature, session)
        _check_passages(graph, inputs.passages, lambda feeds: [session.run(feed) for feed in feeds])
    except ModelError as error:
        raise ModelError(f"{error} {WITHOUT_RUNNING if calibrated else _WITHOUT_COMPARING}") from error
    return Comparison(inputs, runtime, loaded, notes=notes)


def _made_livelier(inputs: Inputs, signature: Signature, session: Session) -> tuple[Inputs, tuple[str, ...]]:
    """The same inputs, or, where those made up show nothing, others that do; and what is to be told about it."""
    if inputs.measured_on != "generated":
        return inputs, ()
    feeds, note = livelier(inputs.feeds, signature, session.run)
    return replace(inputs, feeds=feeds), (note,) if note else ()


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


def run_pieces(
    graph: Graph, feeds: Feeds, runtime: Runtime, what: str, progress: Progress, outputs: Sequence[str] | None = None
) -> Pieces:
    """Run a model on all feeds, piece by piece."""
    pieces = Pieces(graph, feeds, runtime, outputs)
    done = count()
    pieces.run(lambda: progress(what, next(done), pieces.runs))
    return pieces
