"""onnxfq: makes exported ONNX models small and fast without making them worse, and proves it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
    from onnxfq.pipeline import Options, inspect, quantize
    from onnxfq.report import Report
    from onnxfq.scheme import Scheme
    from onnxfq.version import VERSION as __version__

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
_HOMES = {"Options": "pipeline", "inspect": "pipeline", "quantize": "pipeline", "Report": "report", "Scheme": "scheme"}


def __getattr__(name: str) -> Any:
    """Import a public name from the room it lives in."""
    if name == "__version__":
        return import_module("onnxfq.version").VERSION
    if name not in __all__:
        raise AttributeError(f"module 'onnxfq' has no attribute {name!r}")
    return getattr(import_module(f"onnxfq.{_HOMES.get(name, 'errors')}"), name)
