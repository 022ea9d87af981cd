"""onnxfq: makes exported ONNX models small and fast without making them worse, and proves it."""

from __future__ import annotations

from importlib import import_module
from logging import NullHandler, getLogger
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxfq.benchmarking.benchmark import benchmark
    from onnxfq.benchmarking.measurements import Benchmark
    from onnxfq.errors import (
        DataError,
        ExecutorError,
        GateError,
        ModelError,
        OnnxfqError,
        OperatorError,
        OutputError,
        ProviderError,
        SchemeError,
        UsageError,
        VerificationError,
    )
    from onnxfq.evaluation.evaluate import evaluate
    from onnxfq.evaluation.result import Evaluation
    from onnxfq.exporting import export
    from onnxfq.options import Options
    from onnxfq.pipeline import inspect, quantize
    from onnxfq.reports.report import Report
    from onnxfq.scheme import Scheme

    __version__: str

__all__ = [
    "Benchmark",
    "DataError",
    "Evaluation",
    "ExecutorError",
    "GateError",
    "ModelError",
    "OnnxfqError",
    "OperatorError",
    "Options",
    "OutputError",
    "ProviderError",
    "Report",
    "Scheme",
    "SchemeError",
    "UsageError",
    "VerificationError",
    "__version__",
    "benchmark",
    "evaluate",
    "export",
    "inspect",
    "quantize",
]

getLogger(__name__).addHandler(NullHandler())  # who wants to read the log says so

# Loaded on first use: `import onnxfq` and `onnxfq --help` must not wait for numba and ONNX.
_HOMES = {
    "Benchmark": "benchmarking.measurements",
    "Evaluation": "evaluation.result",
    "Options": "options",
    "Report": "reports.report",
    "Scheme": "scheme",
    "benchmark": "benchmarking.benchmark",
    "evaluate": "evaluation.evaluate",
    "export": "exporting",
    "inspect": "pipeline",
    "quantize": "pipeline",
}

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
