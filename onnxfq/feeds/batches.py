"""Texts of one length, run together: a few tokens alone take as long to start an operator as to compute it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from onnxfq.feeds.feed import Feed, Feeds
from onnxfq.feeds.one_text import is_one_text, text_length
from onnxfq.signature import Signature

_TOKENS = 512  # of a batch at most: what its layers make of it stays in the processor's cache
_LONGEST = 64  # tokens of a text that is put together with others; longer ones keep a processor busy alone


@dataclass(frozen=True, slots=True, eq=False)
class Batches:
    """Samples put together.

    Attributes:
        feeds: a batch each, the largest first.
        members: of each batch, the positions of its samples.
    """

    feeds: Feeds
    members: tuple[tuple[int, ...], ...]

    def holding(self, samples: Collection[int]) -> frozenset[int]:
        """The batches of these samples, which are in no batch with others."""
        return frozenset(index for index, members in enumerate(self.members) if members[0] in samples)


def alone(feeds: Feeds) -> Batches:
    """Every sample a batch of its own."""
    return Batches(feeds, tuple((index,) for index in range(len(feeds))))


def batched(feeds: Feeds, signature: Signature, without: Collection[int] = ()) -> Batches:
    """Texts of 64 tokens or fewer that have the same length put together, up to 512 tokens; the order is another then.

    Args:
        feeds: the samples.
        signature: of the model.
        without: samples that stay alone.
    """
    if any(spec.shape is None or not spec.shape or isinstance(spec.shape[0], int) for spec in signature.inputs):
        return alone(feeds)
    groups = defaultdict[int, list[int]](list)
    members = list[tuple[int, ...]]()
    for index, feed in enumerate(feeds):
        length = text_length(feed, signature)
        if length <= _LONGEST and index not in without and is_one_text(feed, signature):
            groups[length].append(index)
        else:
            members.append((index,))
    if all(len(indices) == 1 for indices in groups.values()):
        return alone(feeds)
    for length, indices in groups.items():
        most = max(1, _TOKENS // length)
        members += [tuple(indices[start : start + most]) for start in range(0, len(indices), most)]
    members.sort(key=lambda own: -len(own) * text_length(feeds[own[0]], signature))  # none is waited for at the end
    samples = tuple(_together([feeds[index] for index in own]) for own in members)
    return Batches(Feeds(samples, feeds.origin, feeds.is_generated), tuple(members))


def _together(feeds: Sequence[Feed]) -> Feed:
    return feeds[0] if len(feeds) == 1 else {n: np.concatenate([feed[n] for feed in feeds]) for n in feeds[0]}
