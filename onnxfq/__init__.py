"""onnxfq: makes exported ONNX models small and fast without making them worse, and proves it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxfq.errors import (
        DataError,
        GateError,
        ModelError,
        OnnxfqError,
        OutputError,
        ProviderError,
        SchemeError,
        UsageError,
        VerificationError,
    )
    from onnxfq.options import Options
    from onnxfq.pipeline import inspect, quantize
    from onnxfq.report import Report
    from onnxfq.scheme import Scheme

    __version__: str

__all__ = [
    "DataError",
    "GateError",
    "ModelError",
    "OnnxfqError",
    "Options",
    "OutputError",
    "ProviderError",
    "Report",
    "Scheme",
    "SchemeError",
    "UsageError",
    "VerificationError",
    "__version__",
    "inspect",
    "quantize",
]

# Loaded on first use: `import onnxfq` and `onnxfq --help` must not wait for numba and ONNX.
_HOMES = {"Options": "options", "inspect": "pipeline", "quantize": "pipeline", "Report": "report", "Scheme": "scheme"}

if not TYPE_CHECKING:  # type checkers know the names above, and must not believe in any other

    def __getattr__(name: str) -> object:
        """Import a public name from the room it lives in."""
        if name == "__version__":
            return import_module("onnxfq.version").VERSION
        if name not in __all__:
            raise AttributeError(f"module 'onnxfq' has no attribute {name!r}")
        return getattr(import_module(f"onnxfq.{_HOMES.get(name, 'errors')}"), name)

    def __dir__() -> list[str]:
        """Public names, loaded or not."""
        return sorted({*globals(), *__all__})
