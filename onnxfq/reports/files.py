"""Files that reports are written to: JSON, or a page for a browser."""

from __future__ import annotations

import json
from pathlib import Path

from onnxfq.errors import OutputError
from onnxfq.reports.compare import ReportComparison
from onnxfq.reports.formats import WRITERS
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
