"""What is here, and which formats are fast with it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator

from onnxfq.kernels import COLUMNS, rows
from onnxfq.session import available_providers, runtime_version
from onnxfq.version import VERSION

__all__ = ["COLUMNS", "environment", "kernel_rows"]


def environment() -> Iterator[tuple[str, str]]:
    """(what, value) of everything that decides about speed here."""
    yield "onnxfq", VERSION
    yield "Python", platform.python_version()
    yield "ONNX Runtime", runtime_version()
    yield "providers", ", ".join(available_providers())
    yield "machine", f"{platform.machine()}, {os.cpu_count()} processors"


def kernel_rows() -> list[tuple[str, ...]]:
    """The kernel table of the providers that are here."""
    return [row for provider in available_providers() for row in rows(provider)]
