"""Text for people: names from models made harmless for a terminal, sizes in words, and streams that nobody reads."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, TextIO

_LONGEST_MESSAGE = 10_000  # characters


def printable(text: str) -> str:
    """The text with everything that a terminal would obey or hide shown as an escape.

    Names in a model are anyone's: control characters could rewrite what was printed, or worse.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def one_line(text: str) -> str:
    """A message on one line, harmless and of a length that can be read."""
    return printable(shortened(" ".join(text.split()), _LONGEST_MESSAGE))


def size_text(count: float) -> str:
    """Bytes in decimal units: `12.3 MB`."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def shortened(text: str, most: int) -> str:
    """The text, or its beginning and end where it is longer than `most` characters."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


class Lasting:
    """A stream for messages that goes quiet, instead of failing, where nobody reads it or its disk is full.

    No run ends because its progress cannot be shown; its exit code still tells.

    Args:
        stream: where to write.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Whatever else the stream has."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, if that is possible."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, if that is possible."""
        with suppress(OSError):
            self._stream.flush()
