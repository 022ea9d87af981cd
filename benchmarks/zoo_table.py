"""The table of the zoo."""

from __future__ import annotations

from typing import Any

from benchmarks.tables import markdown, read
from onnxfq.reports.figures import figure_text

HEADING = [
    "model", "targets", "left alone", "size", "error", "`--calib self`", "speed", "dynamic: size", "error", "speed",
]  # fmt: skip


def architectures() -> str:
    """Every model's file beside that of quantize_dynamic."""
    return markdown([HEADING, *(_row(row) for row in read("architectures")["rows"])])


def _row(row: dict[str, Any]) -> list[str]:
    ours, calibrated, rival = (row[key] for key in ("without_data", "calibrated", "dynamic"))
    skips = ", ".join(f"{count} {kind}" for kind, count in ours.get("skips", {}).items())
    targets = str(ours["targets"]) if "targets" in ours else "none"
    own = [_size(ours), _error(ours), _error(calibrated), _speed(ours)]
    return [row["model"], targets, skips, *own, _size(rival), _error(rival), _speed(rival)]


def _size(found: dict[str, Any]) -> str:
    return f"{found['size_ratio']:.0%}" if "size_ratio" in found else "fails"


def _error(found: dict[str, Any]) -> str:
    if "failure" in found:
        return "fails"
    error = found.get("error")
    return "not compared" if error is None else figure_text(error)


def _speed(found: dict[str, Any]) -> str:
    """With a mark where the machine was busy, so that one thread's time on a processor counts."""
    speed = found.get("speed")
    return "" if speed is None else f"{speed['ratio']:.2f}x{'*' if speed['clock'] != 'wall' else ''}"
