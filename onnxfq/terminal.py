"""Text from models, made harmless for a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with everything that a terminal would obey or hide shown as an escape, such as `\\x1b`.

    Names in a model are anyone's: control characters could rewrite what was printed, or worse.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def one_line(text: str) -> str:
    """A message on one line, harmless."""
    return printable(" ".join(text.split()))
