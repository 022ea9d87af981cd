"""Original against output: the same inputs through both, their difference, and how long each takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnxfq.errors import ModelError, VerificationError
from onnxfq.evaluate import Latency, OutputAccuracy, compare, measure, run_reference
from onnxfq.feeds import Feed, Feeds, generate, has_cache
from onnxfq.session import Provider, Session
from onnxfq.signature import Signature

GENERATED_SAMPLES = 8
GENERATED_TOKENS = 64
LATENCY_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Inputs:
    """What both models will be fed with.

    Attributes:
        feeds: for accuracy; the first also for latency.
        decode: one decoding step after some cached tokens, for models with a KV cache; else None.
    """

    feeds: Feeds
    decode: Feed | None


@dataclass(frozen=True, slots=True)
class Validation:
    """What the comparison found."""

    outputs: tuple[OutputAccuracy, ...]
    latency: tuple[Latency, ...]
    inputs: str


def prepare_inputs(signature: Signature, given: Feeds | None, *, samples: int, seq_len: int, seed: int) -> Inputs:
    """The inputs of the comparison: those given, or some made up.

    Raises:
        DataError: none can be made up.
    """
    tokens = min(seq_len, GENERATED_TOKENS)
    feeds = given or generate(signature, samples=min(samples, GENERATED_SAMPLES), seq_len=tokens, seed=seed)
    decode = None
    if has_cache(signature):
        decode = generate(signature, samples=1, seq_len=1, seed=seed, past=tokens)[0]
    return Inputs(feeds, decode)


def try_original(source: Path, inputs: Inputs, provider: Provider, threads: int | None) -> None:
    """Run the original once, so that inputs that do not suit it fail before the long work.

    Raises:
        ModelError: the original does not load or run.
        DataError: it does not run on these inputs.
    """
    try:
        session = Session(source, provider=provider, threads=threads)
        run_reference(session, inputs.feeds[0], generated=inputs.feeds.is_generated)
    except ModelError as error:
        raise ModelError(f"{error} To quantise it without comparing it with the original: --no-validate.") from error


def validate(source: Path, output: Path, inputs: Inputs, provider: Provider, threads: int | None) -> Validation:
    """Compare the two files and time them in turn.

    Raises:
        VerificationError: the output does not load where the original does.
    """
    original = Session(source, provider=provider, threads=threads)
    try:
        quantized = Session(output, provider=provider, threads=threads)
    except ModelError as error:
        raise VerificationError(
            f"The original runs, the quantised model does not. Please report this: {error}"
        ) from error
    outputs = compare(original, quantized, inputs.feeds)
    cases = {"first sample" if inputs.decode is None else "prefill": inputs.feeds[0]}
    if inputs.decode is not None:
        cases["decode, 1 token"] = inputs.decode
    latency = [measure(original, quantized, feed, case=case, seconds=LATENCY_SECONDS) for case, feed in cases.items()]
    return Validation(tuple(outputs), tuple(latency), inputs.feeds.origin)
