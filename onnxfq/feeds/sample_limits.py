"""How many samples a run takes where nobody says so: by their tokens, which are what its time goes by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from onnxfq.feeds.feed import Feed, Feeds
from onnxfq.feeds.held_out import ENOUGH_SAMPLES, LEAST, feed_tokens
from onnxfq.feeds.names import is_float, role
from onnxfq.signature import Signature

MOST_SAMPLES, MOST_TOKENS = 1024, 1 << 16  # that calibrate; whichever is reached first ends the reading
OTHER_SAMPLES = 128  # for the comparison alone, or written by the model itself
_LARGE = 512  # tokens that a sample counts as at least where it holds more than ids: images, sound, an encoder's states


def up_to(samples: Iterable[Feed], signature: Signature, tokens: int | None) -> Iterator[Feed]:
    """The first samples, as far as it takes to have so many tokens, and enough samples; all where None."""
    total = 0
    for count, feed in enumerate(samples, start=1):
        yield feed
        total += _size(feed, signature)
        if tokens is not None and total >= tokens and count >= ENOUGH_SAMPLES + LEAST:
            return


def count_within(feeds: Feeds, signature: Signature) -> int:
    """How many of some samples calibrate, the first ones; enough of them whatever their tokens."""
    total = 0
    for count, feed in enumerate(feeds):
        total += _size(feed, signature)
        if count == MOST_SAMPLES or (total > MOST_TOKENS and count >= ENOUGH_SAMPLES):
            return count
    return len(feeds)


def size_in_tokens(feeds: Feeds, signature: Signature) -> int:
    """How many tokens samples count as together."""
    return sum(_size(feed, signature) for feed in feeds)


def _size(feed: Feed, signature: Signature) -> int:
    tokens = feed_tokens(feed, signature)
    large = any(is_float(s) and role(s) == "data" and s.name in feed for s in signature.inputs)
    return max(tokens or 0, _LARGE if large or tokens is None else 0)
