"""What of the texts of a run was not taken: those that are empty, and what is longer than samples may be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_MUCH = 10  # a rest of running text is worth telling where it is more than one of so many tokens


@dataclass(slots=True)
class TextTally:
    """Counts texts while they are read.

    Attributes:
        texts: that became samples.
        empty: that were passed over.
        cut: of those that became samples, how many are longer than a sample may be.
        longest: tokens of the longest text.
        tokens: of a running text.
        rest: of these, how many were left out behind the last full window.
    """

    texts: int = 0
    empty: int = 0
    cut: int = 0
    longest: int = 0
    tokens: int = 0
    rest: int = 0

    def add(self, length: int, most: int) -> None:
        """Count a text.

        Args:
            length: tokens that it has.
            most: tokens that a sample may have.
        """
        self.texts += 1
        self.cut += length > most
        self.longest = max(self.longest, length)

    @property
    def tells(self) -> bool:
        """Whether anything was not taken."""
        return bool(self.empty or self.cut or self.rest)

    def notes(self, length: int, limit: int | None, where: str) -> Iterator[str]:
        """What the user should know of it.

        Args:
            length: tokens that a sample may have.
            limit: tokens that the model takes at most; None where nothing is known of that.
            where: the texts stand.
        """
        if self.empty:
            yield f"{self.empty} empty {_texts(self.empty)} in {where} {_were(self.empty)} passed over."
        if self.cut:
            which, are = f"{self.cut} of {self.texts} {_texts(self.texts)} in {where}", "is" if self.cut == 1 else "are"
            remedy = _remedy(self.longest, length, limit)
            yield f"{which} {are} longer than {length} tokens and {_were(self.cut)} cut there; {remedy}."
        if self.rest * _MUCH > self.tokens:
            yield (
                f"The last {self.rest} of {self.tokens} tokens of {where} do not fill a window of {length} and were "
                "left out; a smaller `seq_len` leaves out fewer."
            )

    def all_empty(self) -> str:
        """How a message ends that there are no samples, where that is why; else ""."""
        if not self.empty:
            return ""
        return "its only text is empty" if self.empty == 1 else f"all of its {self.empty} texts are empty"


def _remedy(longest: int, length: int, limit: int | None) -> str:
    """What keeps more of texts: a power of two, as far as the model takes it."""
    if limit is not None and length >= limit:
        return "the model takes no more"
    wanted = 1 << (longest - 1).bit_length()
    if limit is None or longest <= limit:
        return f"`seq_len={wanted if limit is None else min(wanted, limit)}` would keep all"
    return f"`seq_len={limit}`, the most that the model takes, would keep more"


def _texts(count: int) -> str:
    return "text" if count == 1 else "texts"


def _were(count: int) -> str:
    return "was" if count == 1 else "were"
