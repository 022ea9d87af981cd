"""Who is told how far a run is: a function, a bar on stderr, or nobody; and always the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from onnxfq.errors import UsageError
from onnxfq.progress import Progress, silent

STAGES = "onnxfq.stages"
"""The logger of stages, at INFO; details are logged elsewhere, at DEBUG."""
_LOGGER = logging.getLogger(STAGES)


@contextmanager
def following(progress: Progress | bool | None) -> Iterator[Progress]:
    """A function that tells of progress while inside.

    Args:
        progress: a function to tell, True for a bar on stderr, None or False for nobody.

    Raises:
        UsageError: it is nothing of that.
    """
    if progress is True:
        from rich.console import Console

        from onnxfq.system.progress_bar import progress_bar

        with progress_bar(Console(stderr=True)) as tell:
            yield _logged(tell)
        return
    if progress is not None and progress is not False and not callable(progress):
        raise UsageError(f"`progress` must be True, or a function called with (what, done, total) (got {progress!r}).")
    yield _logged(progress or silent)


def _logged(tell: Progress) -> Progress:
    stage = ""

    def report(what: str, done: int, total: int) -> None:
        nonlocal stage
        if what != stage:
            _LOGGER.info("%s", what)
            stage = what if total else stage
        tell(what, done, total)

    return report
