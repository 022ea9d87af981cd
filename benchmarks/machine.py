"""What a figure was measured on."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("onnxfq", "onnx", "onnxruntime-gpu", "onnxruntime", "onnx-ir", "numpy", "numba", "torch")
RIVALS = ("nvidia-modelopt", "nncf")


def describe() -> dict[str, Any]:
    """Processor, memory and versions."""
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of the packages that matter, those that this environment has."""
    return {p: v for p in (*PACKAGES, *RIVALS) if (v := _version(p))}


def write(path: Path, result: dict[str, Any]) -> None:
    """Write a result with the day and the machine it was measured on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    today = datetime.now(UTC).date().isoformat()
    path.write_text(json.dumps({"date": today, "machine": describe(), **result}, indent=1) + "\n")


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
