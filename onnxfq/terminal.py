"""Text for people: names from models made harmless for a terminal, sizes in words."""

from __future__ import annotations

_LONGEST_MESSAGE = 10_000  # characters


def printable(text: str) -> str:
    """The text with everything that a terminal would obey or hide shown as an escape.

    Names in a model are anyone's: control characters could rewrite what was printed, or worse.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shortened(text: str, most: int) -> str:
    """A text with its middle left out where it is longer than so many characters: names may be of any length."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2]} … {text[-(most // 2) :]}"


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
