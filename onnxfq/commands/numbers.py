"""Lists of numbers as people write them."""

from __future__ import annotations

from onnxfq.errors import UsageError


def parse_numbers(text: str, what: str) -> tuple[int, ...]:
    """Numbers from "1,4" or "0-3,8".

    Args:
        text: numbers and ranges, both ends included, with commas between them.
        what: names the setting, for messages.

    Raises:
        UsageError: the text is no such list.
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not (first.isdecimal() and (last.isdecimal() if dash else not last)):
            raise UsageError(f"{what} must be numbers with commas between them (got {text!r}). Write 1,4 or 0-3,8.")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)
