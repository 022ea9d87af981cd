"""More samples from few: the beginning of one text and the end of another.

What calibration fits to a few hundred sentences it fits to their peculiarities too. Texts put together from pieces of
others have the same words among different neighbours: fewer directions of the inputs are left unseen. On
all-MiniLM-L6-v2 calibrated on 384 sentences, that takes 6 % off the error on others.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxfq.arrays import Array
from onnxfq.feeds.feed import Feed, Feeds
from onnxfq.feeds.held_out import ENOUGH_SAMPLES
from onnxfq.feeds.names import role, takes_token_ids
from onnxfq.signature import Signature, TensorSpec

ENOUGH_TO_KNOW = 1 << 15  # tokens, of texts and splices together
_TIMES = 3  # at most so many splices for each text
_SENTENCE = 64  # tokens of a short text, on average
_SHORTEST = 4  # tokens of a text that is cut: two belong to the tokenizer


def spliced(feeds: Feeds, signature: Signature, without: frozenset[int] = frozenset()) -> Feeds:
    """Samples, and behind them splices of them: until all have 32768 tokens together, three for each at most.

    None of fewer than 32 samples, of those that were made up, of those that are more than the ids of one text, and of
    long ones: windows of running text differ more than sentences do, and take longer.

    Args:
        feeds: the samples.
        signature: of the model.
        without: samples that no splice is made of.
    """
    texts = [feed for index, feed in enumerate(feeds) if index not in without and _is_text(feed, signature)]
    total, found = sum(_length(feed, signature) for feed in feeds), list[Feed]()
    if feeds.is_generated or len(feeds) < ENOUGH_SAMPLES or len(texts) < 2 or total > _SENTENCE * len(feeds):
        return feeds
    longest, rng = max(_length(feed, signature) for feed in texts), np.random.default_rng(0)
    for first in texts * _TIMES:
        if total >= ENOUGH_TO_KNOW:
            break
        found.append(_splice(first, texts[rng.integers(len(texts))], longest, signature, rng))
        total += _length(found[-1], signature)
    return Feeds((*feeds, *found), feeds.origin)


def _splice(first: Feed, second: Feed, longest: int, signature: Signature, rng: np.random.Generator) -> Feed:
    """A few tokens at least of the first text, and the last of the second at least."""
    start = int(rng.integers(1, _length(first, signature)))
    rest = int(rng.integers(1, min(_length(second, signature), longest - start + 1)))
    specs = {spec.name: spec for spec in signature.inputs}
    return {name: _joined(specs[name], first[name], second[name], start, rest) for name in first}


def _joined(spec: TensorSpec, first: Array, second: Array, start: int, rest: int) -> Array:
    if takes_token_ids(spec):
        return np.concatenate([first[:, :start], second[:, second.shape[1] - rest :]], axis=1)
    if role(spec) == "position":
        return np.arange(start + rest, dtype=first.dtype)[np.newaxis]
    return first if not first.size else np.full((1, start + rest), first[0, 0], first.dtype)


def _is_text(feed: Mapping[str, Array], signature: Signature) -> bool:
    """Whether a sample is one text of ids: whatever else it holds follows from how many these are."""
    specs = {spec.name: spec for spec in signature.inputs}
    ids = [feed[name] for name, spec in specs.items() if name in feed and takes_token_ids(spec)]
    if not ids or len(feed) < len(specs) or ids[0].ndim != 2 or len(ids[0]) != 1 or ids[0].shape[1] < _SHORTEST:
        return False
    return all(_follows(specs[name], array, ids[0].shape) for name, array in feed.items())


def _follows(spec: TensorSpec, array: Array, shape: tuple[int, ...]) -> bool:
    """Whether an input is made of ids, or the same for all tokens of a text."""
    if not array.size:
        return role(spec) == "cache"
    if array.shape != shape or (spec.shape is not None and isinstance(spec.shape[-1], int)):
        return False
    if role(spec) == "position":
        return bool((array[0] == np.arange(shape[1])).all())
    return takes_token_ids(spec) or (role(spec) in ("mask", "zeros") and bool((array == array[0, 0]).all()))


def _length(feed: Mapping[str, Array], signature: Signature) -> int:
    return max((feed[s.name].shape[-1] for s in signature.inputs if s.name in feed and takes_token_ids(s)), default=0)
