"""Files that reports are written to."""

from __future__ import annotations

import os
from pathlib import Path

from onnxfq.errors import OutputError, UsageError
from onnxfq.system.durable import write_durably


def write_report(path: Path, text: str, done: str = "") -> None:
    """Write a file whole or not at all.

    Args:
        path: the file.
        text: what it is to hold.
        done: what is complete all the same if it cannot be written.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        write_durably(path, text.encode(), path.with_name(f".{path.name}.partial"))
    except OSError as error:
        raise OutputError(
            f"Cannot write the report '{path}' ({error.strerror or error}). {done}Choose another place for it."
        ) from error


def check_report_path(path: Path, source: Path | None = None, output: Path | None = None) -> None:
    """Refuse a report that could not be written, or would change the source or the output, before any work.

    Raises:
        UsageError: its name ends neither in .json nor in .html, its place cannot be written, or it is or lies in source
            or output.
    """
    check_kind(path)
    if not path.parent.is_dir():
        raise UsageError(f"Cannot write the report: the folder '{path.parent}' does not exist. Create it first.")
    if not _writable(path):
        raise UsageError(f"Cannot write the report '{path}': it is a folder, or not writable. Choose another place.")
    for what, taken in (("source", source), ("output", output)):
        if taken is not None and path.resolve().is_relative_to(taken.resolve()):
            raise UsageError(f"The report '{path}' would change the {what} '{taken}'. Choose another place for it.")


def check_kind(path: Path) -> None:
    """Refuse a name that tells no kind of report.

    Raises:
        UsageError: it ends neither in .json nor in .html.
    """
    if path.suffix not in (".json", ".html"):
        raise UsageError(f"Unknown kind of report (got '{path}'). Give a name that ends in .json or .html.")


def _writable(path: Path) -> bool:
    try:
        return not path.is_dir() and os.access(path if path.exists() else path.parent, os.W_OK)
    except OSError:  # a name too long, or the like
        return False
