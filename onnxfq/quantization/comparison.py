"""What the output will be compared with the original on, tried out on the original before the long work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Literal

from onnxfq.calibration.pieces import Pieces, Runtime
from onnxfq.errors import DataError, ModelError, OperatorError
from onnxfq.feeds import Feed, Feeds, has_cache
from onnxfq.graph import Graph
from onnxfq.metrics.output_error import no_inputs
from onnxfq.metrics.perplexity import TokenLosses, sees_later_tokens
from onnxfq.metrics.perplexity_text import Outputs, PerplexityText
from onnxfq.progress import Progress
from onnxfq.quantization.original import Original
from onnxfq.quantization.telling_inputs import telling_inputs
from onnxfq.session import Session

GENERATED_SAMPLES = 8
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
        decode: one decoding step after some cached tokens, to be timed; None where there is none.
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
    original: Original,
    given: Feeds | None,
    measured_on: MeasuredOn,
    *,
    samples: int,
    seed: int,
    in_sample: Feeds | None = None,
    passages: PerplexityText | None = None,
) -> Inputs:
    """The inputs of the comparison: those given, or some made up; texts for the perplexity besides.

    Raises:
        DataError: none can be made up, or the original does not run on those.
        ModelError: it does not load.
    """
    if given is None and original.fits_memory:
        original.fit(original.tokens)
        _ = original.decoding_step  # it may tell more about sizes
    made = min(samples, GENERATED_SAMPLES)
    feeds = given or original.generate(made, seed)
    return Inputs(feeds, measured_on if given else "generated", in_sample, passages=passages)


@contextmanager
def telling_remedy(*, calibrated: bool) -> Iterator[None]:
    """Say beside a failure of the original how it is quantized without being run.

    Args:
        calibrated: it has to run for the solver too, not for the comparison alone.
    """
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{error} {WITHOUT_RUNNING if calibrated else _WITHOUT_COMPARING}") from error


def prepare_comparison(original: Original, inputs: Inputs, progress: Progress) -> Comparison:
    """Run the original, so that inputs that do not suit it fail before the long work.

    A model that fits into the memory is run once; another one on all inputs, piece by piece, and what it gives is kept.

    Args:
        original: the model.
        inputs: for both models.
        progress: told about every step.

    Raises:
        ModelError: the original does not load or run.
        DataError: it does not run on these inputs.
        OutputError: what is kept does not fit on the disk.
    """
    prepare = _prepare_whole if original.fits_memory else _prepare_in_pieces
    return prepare(original, inputs, progress)


def _prepare_whole(original: Original, inputs: Inputs, progress: Progress) -> Comparison:
    """Run the first inputs, unless they were made up so that it runs on them, and find a decoding step."""
    session = original.session
    if inputs.measured_on != "generated":
        _run_first(session, inputs.feeds[0])
    inputs, told = _made_telling(inputs, original)
    _check_passages(original.graph, inputs.passages, lambda feeds: [session.run(feed) for feed in feeds])
    decode, why = original.decoding_step
    notes = (*told, f"Decoding was not timed. {why}") if why else told
    return Comparison(replace(inputs, decode=decode), original.runtime, original.loaded, notes=notes)


def _prepare_in_pieces(original: Original, inputs: Inputs, progress: Progress) -> Comparison:
    """Run all inputs, one piece of the model after the other."""
    graph, runtime = original.graph, original.runtime
    try:
        pieces = run_pieces(graph, inputs.all_feeds, runtime, "running the original", progress)
    except OperatorError:
        raise
    except (DataError, ModelError) as error:
        if inputs.measured_on != "generated":
            raise
        raise no_inputs(error) from error
    _check_passages(graph, inputs.passages, lambda feeds: _run_in_pieces(graph, feeds, inputs, runtime))
    return Comparison(inputs, runtime, original.loaded, pieces)


def _run_first(session: Session, feed: Feed) -> None:
    """Run a sample that was given; what does not run at first is more likely to be wrong than the model.

    Raises:
        DataError: it does not run; with the shapes that it was given.
    """
    try:
        session.run(feed)
    except OperatorError:
        raise
    except ModelError as error:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feed.items())
        raise DataError(f"The first sample ({shapes}) does not run. Do its sizes suit the model? {error}") from error


def _made_telling(inputs: Inputs, original: Original) -> tuple[Inputs, tuple[str, ...]]:
    """The same inputs, or, where those made up show nothing, others that do; and what is to be told about it."""
    if inputs.measured_on != "generated":
        return inputs, ()
    feeds, note = telling_inputs(inputs.feeds, original.graph.signature, original.session.run)
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
