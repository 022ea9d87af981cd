"""Samples that are held back from calibration, so that a model's error is measured on data it was not fitted to."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from onnxfq.feeds.feed import Feed, Feeds, fingerprint
from onnxfq.feeds.masks import token_masks
from onnxfq.feeds.names import takes_token_ids
from onnxfq.signature import Signature

LEAST = 8  # held back
ENOUGH_SAMPLES, ENOUGH_TOKENS = 32, 4096  # together with those that calibrate
_SHARE = 8  # one of so many is held back, where nothing is left beyond those that calibrate
_CHOOSE_SHARE, _LEAST_CHOOSE, _MOST_CHOOSE = 16, 4, 64  # of samples by which the solver's settings are chosen
_SOME, _MOST = 32, 128  # held back of what is left; between them, a quarter of those that calibrate


def with_held_out(samples: int, parts: int = 1) -> int:
    """How many samples to read, for some to be left where so many calibrate: as many again for each further part."""
    return samples + parts * min(_MOST, max(_SOME, samples // 4))


def hold_out(feeds: Feeds, samples: int) -> tuple[Feeds, Feeds | None]:
    """Part samples into those that calibrate and those held back.

    Those beyond `samples` are held back, so that as many calibrate as were asked for. Where there are fewer than 8 of
    these, which alone would say little, every eighth of all is; of fewer than 32 none: that leaves too little on either
    side.

    Args:
        feeds: what was read, at most `with_held_out(samples)`.
        samples: how many are to calibrate.

    Returns:
        The two parts; None where nothing is held back.
    """
    count = len(feeds)
    left = count - samples
    if left >= LEAST:
        return feeds[:samples], feeds[samples:]
    if count < ENOUGH_SAMPLES:
        return feeds[:samples], None
    kept_back = max(LEAST, count // _SHARE)
    chosen = _spread(kept_back, count)
    return _some(feeds, chosen, chosen=False), _some(feeds, chosen, chosen=True)


def hold_tokens(count: int) -> frozenset[int]:
    """The samples, of so many that calibrate, on which the solver's settings are chosen: no moment is of them.

    Every sixteenth, at most 64, and at least 4 where there are 32; 2 of fewer, and none of fewer than 16, with which
    settings are the usual ones.
    """
    least = _LEAST_CHOOSE if count >= ENOUGH_SAMPLES else _LEAST_CHOOSE // 2
    kept = min(max(count // _CHOOSE_SHARE, least), _MOST_CHOOSE) if count >= _CHOOSE_SHARE else 0
    return _spread(kept, count)


def halves(feeds: Feeds) -> tuple[Feeds, Feeds]:
    """Two parts of samples, of which every other goes into the first."""
    even = set(range(0, len(feeds), 2))
    return _some(feeds, even, chosen=True), _some(feeds, even, chosen=False)


def without_copies(feeds: Feeds, of: Feeds) -> Feeds:
    """Those samples that are not among others, bit by bit."""
    known = {fingerprint([feed]) for feed in of}
    return _some(feeds, {index for index, feed in enumerate(feeds) if fingerprint([feed]) not in known}, chosen=True)


def count_tokens(feeds: Feeds, signature: Signature) -> int | None:
    """Tokens of all samples, padding left out; None for a model that takes no tokens."""
    counts = [feed_tokens(feed, signature) for feed in feeds]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _spread(kept: int, count: int) -> frozenset[int]:
    """So many of `count` positions, at even distances."""
    return frozenset((2 * index + 1) * count // (2 * kept) for index in range(kept))


def _some(feeds: Feeds, indices: Collection[int], *, chosen: bool) -> Feeds:
    samples = tuple(feed for index, feed in enumerate(feeds) if (index in indices) is chosen)
    return Feeds(samples, feeds.origin, feeds.is_generated)


def feed_tokens(feed: Feed, signature: Signature) -> int | None:
    """Tokens of a sample, padding left out; None for a model that takes no tokens."""
    sizes = [feed[spec.name].size for spec in signature.inputs if spec.name in feed and takes_token_ids(spec)]
    if not sizes:
        return None
    masks = [int(np.count_nonzero(mask)) for mask in token_masks(feed, signature)]
    return min(max(sizes), *masks) if masks else max(sizes)
