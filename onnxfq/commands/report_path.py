"""Where a report may be written. Imports nothing heavy, unlike what writes it."""

from __future__ import annotations

import os
from pathlib import Path

from onnxfq.errors import DataError, UsageError

KINDS = (".json", ".html")


def check_report_path(path: Path, source: Path | None = None, output: Path | None = None) -> None:
    """Refuse a report that could not be written, or would change the source or the output, before any work.

    Raises:
        UsageError: its name ends neither in .json nor in .html, its place cannot be written, or it is or lies in source
            or output.
    """
    if path.suffix not in KINDS:
        raise UsageError(f"Unknown kind of report (got '{path}'). Give a name that ends in {' or '.join(KINDS)}.")
    if not path.parent.is_dir():
        raise UsageError(f"Cannot write the report: the folder '{path.parent}' does not exist. Create it first.")
    if not _writable(path):
        raise UsageError(f"Cannot write the report '{path}': it is a folder, or not writable. Choose another place.")
    for what, taken in (("source", source), ("output", output)):
        if taken is not None and path.resolve().is_relative_to(taken.resolve()):
            raise UsageError(f"The report '{path}' would change the {what} '{taken}'. Choose another place for it.")


def _writable(path: Path) -> bool:
    try:
        return not path.is_dir() and os.access(path if path.exists() else path.parent, os.W_OK)
    except OSError:  # a name too long, or the like
        return False


def check_report(path: Path) -> None:
    """Refuse what is no report by its first letter, or cannot be read.

    Raises:
        DataError: it is not.
    """
    try:
        with path.open("rb") as file:
            begins = file.read(64).lstrip()
    except (OSError, ValueError) as error:
        raise DataError(f"Cannot read the report '{path}' ({getattr(error, 'strerror', None) or error}).") from error
    if begins.startswith(b"<"):
        raise DataError(f"'{path}' is a page, which is for a browser. Give the report as JSON.")
    if not begins.startswith(b"{"):
        raise DataError(f"'{path}' is no report of onnxfq, which is a JSON file. Give one that `onnxfq` has written.")
