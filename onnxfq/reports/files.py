"""Files that reports are written to: JSON, or a page for a browser."""

from __future__ import annotations

import json
import os
from pathlib import Path

from onnxfq.errors import OutputError, UsageError
from onnxfq.reports.compare import ReportComparison
from onnxfq.reports.formats import WRITERS, writer_of
from onnxfq.reports.page import comparison_page, report_page
from onnxfq.reports.report import Report
from onnxfq.system.durable import write_durably


def _write_json(document: Report | ReportComparison, path: Path) -> None:
    _write(document, path, json.dumps(document.to_json(), indent=1, allow_nan=False))


def _write_page(document: Report | ReportComparison, path: Path) -> None:
    _write(document, path, report_page(document) if isinstance(document, Report) else comparison_page(document))


WRITERS |= {".json": _write_json, ".html": _write_page}


def _write(document: Report | ReportComparison, path: Path, text: str) -> None:
    """Write a file whole or not at all; where that fails, say that what a report is about is complete all the same."""
    try:
        write_durably(path, f"{text}\n".encode(), path.with_name(f".{path.name}.partial"))
    except OSError as error:
        output = document.output if isinstance(document, Report) else None
        done = f"The model is complete: '{output}'. " if output else ""
        raise OutputError(
            f"Cannot write the report '{path}' ({error.strerror or error}). {done}Choose another place for it."
        ) from error


def check_report_path(path: Path, source: Path | None = None, output: Path | None = None) -> None:
    """Refuse a report that could not be written, or would change the source or the output, before any work.

    Raises:
        UsageError: its name ends neither in .json nor in .html, its place cannot be written, or it is or lies in source
            or output.
    """
    writer_of(path)
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
