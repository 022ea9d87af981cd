"""What one run of a model is fed with, and a collection of such runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

from onnxfq.arrays import Array

Feed = dict[str, Array]


@dataclass(frozen=True, slots=True, eq=False)
class Feeds(Sequence[Feed]):
    """Complete inputs of several runs.

    Attributes:
        samples: one feed a run, every input of the model in it.
        origin: where they come from, for reports: "given: data.npz" or "generated".
        is_generated: whether they were made up.
        notes: what was not taken of the data; of a part of the samples nothing is noted.
    """

    samples: tuple[Feed, ...]
    origin: str
    is_generated: bool = False
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """How many runs."""
        return len(self.samples)

    @overload
    def __getitem__(self, index: int) -> Feed: ...
    @overload
    def __getitem__(self, index: slice) -> Feeds: ...
    def __getitem__(self, index: int | slice) -> Feed | Feeds:
        """One feed, or some of them with the same origin."""
        if isinstance(index, slice):
            return Feeds(self.samples[index], self.origin, self.is_generated)
        return self.samples[index]


def fingerprint(feeds: Iterable[Feed]) -> str:
    """Tells samples from others, by names, types and values."""
    digest = hashlib.sha256()
    for feed in feeds:
        for name, array in sorted(feed.items()):
            digest.update(json.dumps([name, array.dtype.name, array.shape]).encode())
            digest.update(repr(array.tolist()).encode() if array.dtype == object else array.tobytes())
    return digest.hexdigest()


def always(feeds: Sequence[Feed], name: str) -> bool | None:
    """The value that an input has in all samples, where it is a single truth value."""
    values = {bool(feed[name]) for feed in feeds if name in feed and feed[name].dtype == bool and feed[name].size == 1}
    given = all(name in feed for feed in feeds)
    return values.pop() if given and len(values) == 1 else None
