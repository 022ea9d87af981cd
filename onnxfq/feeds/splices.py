"""More samples from few: the beginning of one text and the end of another.

What calibration fits to a few hundred sentences it fits to their peculiarities too. Texts put together from pieces of
others have the same words among different neighbours: fewer directions of the inputs are left unseen. On
all-MiniLM-L6-v2 calibrated on 384 sentences of 5800 tokens, 2400 more take 3 % off the error on others, 16600 more 6 %,
for three times as long.
"""

from __future__ import annotations

import numpy as np

from onnxfq.arrays import Array
from onnxfq.feeds.feed import Feed, Feeds
from onnxfq.feeds.held_out import ENOUGH_SAMPLES
from onnxfq.feeds.names import role, takes_token_ids
from onnxfq.feeds.one_text import is_one_text, text_length
from onnxfq.signature import Signature, TensorSpec

ENOUGH_TO_KNOW = 1 << 13  # tokens, of texts and splices together
_TIMES = 3  # at most so many splices for each text
_SENTENCE = 64  # tokens of a short text, on average
_SHORTEST = 4  # tokens of a text that is cut: two belong to the tokenizer


def spliced(feeds: Feeds, signature: Signature, without: frozenset[int] = frozenset()) -> Feeds:
    """Samples, and behind them splices of them: until all have 8192 tokens together, three for each at most.

    None of fewer than 32 samples, of those that were made up, of those that are more than the ids of one text, and of
    long ones: windows of running text differ more than sentences do, and take longer.

    Args:
        feeds: the samples.
        signature: of the model.
        without: samples that no splice is made of.
    """
    texts = [feed for index, feed in enumerate(feeds) if index not in without and _can_be_cut(feed, signature)]
    total, found = sum(text_length(feed, signature) for feed in feeds), list[Feed]()
    if feeds.is_generated or len(feeds) < ENOUGH_SAMPLES or len(texts) < 2 or total > _SENTENCE * len(feeds):
        return feeds
    longest, rng = max(text_length(feed, signature) for feed in texts), np.random.default_rng(0)
    for first in texts * _TIMES:
        if total >= ENOUGH_TO_KNOW:
            break
        found.append(_splice(first, texts[rng.integers(len(texts))], longest, signature, rng))
        total += text_length(found[-1], signature)
    return Feeds((*feeds, *found), feeds.origin)


def _splice(first: Feed, second: Feed, longest: int, signature: Signature, rng: np.random.Generator) -> Feed:
    """A few tokens at least of the first text, and the last of the second at least."""
    start = int(rng.integers(1, text_length(first, signature)))
    rest = int(rng.integers(1, min(text_length(second, signature), longest - start + 1)))
    specs = {spec.name: spec for spec in signature.inputs}
    return {name: _joined(specs[name], first[name], second[name], start, rest) for name in first}


def _joined(spec: TensorSpec, first: Array, second: Array, start: int, rest: int) -> Array:
    if takes_token_ids(spec):
        return np.concatenate([first[:, :start], second[:, second.shape[1] - rest :]], axis=1)
    if role(spec) == "position":
        return np.arange(start + rest, dtype=first.dtype)[np.newaxis]
    return first if not first.size else np.full((1, start + rest), first[0, 0], first.dtype)


def _can_be_cut(feed: Feed, signature: Signature) -> bool:
    return is_one_text(feed, signature) and text_length(feed, signature) >= _SHORTEST
