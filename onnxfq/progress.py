"""How long work tells that it goes on."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total); a total of 0 marks a remark, not a stage."""


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody sees."""
