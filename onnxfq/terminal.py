"""Text for people: names from models made harmless for a terminal, sizes in words."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with everything that a terminal would obey or hide shown as an escape.

    Names in a model are anyone's: control characters could rewrite what was printed, or worse.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def one_line(text: str) -> str:
    """A message on one line, harmless."""
    return printable(" ".join(text.split()))


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
