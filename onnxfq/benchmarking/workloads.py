"""What a benchmark runs: prompts at once, a token after the other, or a whole input of a model of another kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from onnxfq.benchmarking.decoding import Decoding, Repeated
from onnxfq.errors import DataError, ModelError
from onnxfq.feeds import CausalLM, Feed, Ids, find_causal_lm, generate, has_cache, role, takes_token_ids
from onnxfq.graph import Graph
from onnxfq.session import Session
from onnxfq.signature import Signature

RunKind = Literal["prefill", "decode", "run"]

SEED = 0


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind and size of run.

    Attributes:
        kind: "prefill": a prompt at once. "decode": one token after the other behind a prompt. "run": an input of a
            model without a cache.
        batch: rows at once.
        length: tokens of the prompt or input; None where the model's inputs have no length.
        tokens: what a run handles in all its rows; None where inputs are no tokens.
    """

    kind: RunKind
    batch: int
    length: int | None
    tokens: int | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model to be timed.

    Attributes:
        session: runs it.
        signature: its inputs, with the vocabulary where it is known.
        writer: it as a language model with a cache; None where it is none.
    """

    session: Session
    signature: Signature
    writer: CausalLM | None

    @classmethod
    def of(cls, session: Session, signature: Signature) -> Candidate:
        """Find out what the model is."""
        found = find_causal_lm(session, signature) if has_cache(signature) else None
        return cls(session, signature, found if found and found.cache else None)


def kinds_of(graphs: Sequence[Graph]) -> tuple[RunKind, ...]:
    """What can be timed of all of them.

    Raises:
        ModelError: some take a cache and others do not.
    """
    caches = {has_cache(graph.signature) for graph in graphs}
    if len(caches) > 1:
        names = ", ".join(str(graph.path) for graph in graphs if has_cache(graph.signature))
        raise ModelError(f"Only some of the models take cached keys and values ({names}): they cannot be compared.")
    return ("prefill", "decode") if caches.pop() else ("run",)


def workloads(signature: Signature, kind: RunKind, batches: Sequence[int], lengths: Sequence[int]) -> list[Workload]:
    """The runs of one kind that differ in what they feed.

    Raises:
        DataError: nothing can be made up for the model, or its batch is fixed to another size.
    """
    found: dict[tuple[object, ...], Workload] = {}
    for batch in batches:
        for length in lengths:
            feed = make_feed(signature, kind, batch, length)
            sizes = tuple(array.shape for array in feed.values())
            found.setdefault(sizes, _workload(signature, kind, batch, length, feed))
    return list(found.values())


def make_feed(signature: Signature, kind: RunKind, batch: int, length: int) -> Feed:
    """Made-up inputs of one run, the same for all models with such inputs."""
    past = length if kind == "decode" else 0
    return generate(signature, samples=1, seq_len=length, past=past, seed=SEED, batch=batch)[0]


def _workload(signature: Signature, kind: RunKind, batch: int, length: int, feed: Feed) -> Workload:
    data = [spec for spec in signature.inputs if role(spec) == "data"]
    for spec in data:
        if feed[spec.name].shape and feed[spec.name].shape[0] != batch:
            raise DataError(
                f"The model's input {spec.name} is of shape {list(feed[spec.name].shape)} whatever the batch (got "
                f"batch {batch}). Use its own batch size, or export it with another."
            )
    other = make_feed(signature, kind, batch, length + 1)
    sized = any(other[name].shape != array.shape for name, array in feed.items())
    ids = next((feed[spec.name] for spec in data if takes_token_ids(spec)), None)
    return Workload(kind, batch, length if sized else None, None if ids is None else ids.size)


def make_runs(candidates: Sequence[Candidate], workload: Workload, *, tokens: int) -> list[Callable[[], object]]:
    """What is to be timed, once, of each candidate.

    Args:
        candidates: the models.
        workload: what they run.
        tokens: how far a text is continued before it starts again.

    Raises:
        DataError: the inputs do not fit a model.
        ModelError: a model does not run.
    """
    return [_run_of(candidate, workload, candidates, tokens) for candidate in candidates]


def _run_of(
    candidate: Candidate, workload: Workload, candidates: Sequence[Candidate], tokens: int
) -> Callable[[], object]:
    if workload.kind != "decode" or candidate.writer is None or any(c.writer is None for c in candidates):
        length = workload.length or 1
        return Repeated(candidate.session, make_feed(candidate.signature, workload.kind, workload.batch, length)).run
    vocabulary = min(c.writer.vocabulary for c in candidates if c.writer is not None)
    text = text_of(vocabulary, workload.batch, (workload.length or 1) + tokens)
    decoding = Decoding(candidate.writer, text[:, :-tokens], text[:, -tokens:])
    return _Continued(decoding)


def text_of(vocabulary: int, batch: int, tokens: int) -> Ids:
    """Made-up token ids [batch, tokens]."""
    return np.random.default_rng(SEED).integers(vocabulary, size=(batch, tokens))


class _Continued:
    """Decodes a token a call, and from the prompt again when all given tokens are done (which takes no time)."""

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding

    def __call__(self) -> None:
        if not self._decoding.left:
            self._decoding.restart()
        self._decoding.step()
