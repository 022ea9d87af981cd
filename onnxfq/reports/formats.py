"""The kinds of files that a report can be saved as, by how their names end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnxfq.errors import UsageError

WRITERS: dict[str, Callable[[Any, Path], None]] = {}
"""Each writes what it is given to a file, whole or not at all. `files` fills it: it knows of pages, reports do not."""


def writer_of(path: Path) -> Callable[[Any, Path], None]:
    """What writes such a file.

    Raises:
        UsageError: its name ends in no kind of report.
    """
    if path.suffix not in WRITERS:
        raise UsageError(f"Unknown kind of report (got '{path}'). Give a name that ends in {' or '.join(WRITERS)}.")
    return WRITERS[path.suffix]
