"""How long work tells that it goes on."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total); a total of 0 marks a remark, not a stage."""


class Steps:
    """Progress of work whose number of steps is known; called after each step.

    Args:
        progress: is told.
        what: is done.
        total: how many steps there are.
    """

    def __init__(self, progress: Progress, what: str, total: int) -> None:
        self._progress, self._what, self._total, self._done = progress, what, total, 0

    def __call__(self) -> None:
        """Tell of a step."""
        self._progress(self._what, self._done, self._total)
        self._done += 1

    def finish(self) -> None:
        """Tell that all is done."""
        self._progress(self._what, self._total, self._total)


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody sees."""
