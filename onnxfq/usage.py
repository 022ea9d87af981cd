"""How a model will be used (`workload`): how many rows of activations a weight is multiplied with at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnxfq.errors import UsageError

USAGES: Mapping[str, tuple[int, ...]] = {
    "decode": (1,),
    "prefill": (128,),
    "encoder": (128, 512),
    "mixed": (1, 128),
}
_MOST_ROWS = 10**7
_WRITE = f"Write {', '.join(USAGES)}, or counts of rows with commas between them: 1,128."
Workloads = str | int | Sequence[int]


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts of rows, each of which as many tokens take.

    Attributes:
        rows: at once, ascending.
        origin: how that is known, for people.
    """

    rows: tuple[int, ...]
    origin: str

    def __str__(self) -> str:
        """For people: `128 and 512 rows`."""
        counts = [str(count) for count in self.rows]
        text = " and ".join([", ".join(counts[:-1]), counts[-1]] if len(counts) > 1 else counts)
        return f"{text} {'row' if self.rows == (1,) else 'rows'}"


def parse_workload(given: Workloads) -> Usage:
    """A workload as the user wrote it: a name, a number of rows, or several.

    Raises:
        UsageError: it is no such thing.
    """
    if isinstance(given, str) and given.strip() in USAGES:
        return Usage(USAGES[given.strip()], given.strip())
    parts = given.split(",") if isinstance(given, str) else given if isinstance(given, Sequence) else (given,)
    try:
        rows = sorted({_count(part) for part in parts})
    except ValueError:
        rows = []
    if not rows:
        raise UsageError(f"`workload` is how many rows a weight meets at once (got {given!r}). {_WRITE}")
    return Usage(tuple(rows), "as asked for")


def _count(part: object) -> int:
    """A count of rows.

    Raises:
        ValueError: it is none.
    """
    text = str(part).strip()
    if isinstance(part, bool) or not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= _MOST_ROWS:
        raise ValueError(text)
    return int(text)
