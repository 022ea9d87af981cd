"""onnxfq: makes exported ONNX models small and fast without making them worse, and proves it."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxfq.errors import (
        DataError,
        ExecutorError,
        GateError,
        ModelError,
        OnnxfqError,
        OutputError,
        ProviderError,
        SchemeError,
        UsageError,
        VerificationError,
    )
    from onnxfq.evaluation.evaluating import evaluate
    from onnxfq.evaluation.evaluation import Evaluation
    from onnxfq.exporting import export
    from onnxfq.options import Options
    from onnxfq.pipeline import inspect, quantize
    from onnxfq.reports.report import Report
    from onnxfq.scheme import Scheme
    from onnxfq.timing.benchmarking import benchmark
    from onnxfq.timing.measurements import Benchmark

    __version__: str

__all__ = [
    "Benchmark",
    "DataError",
    "Evaluation",
    "ExecutorError",
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
    "benchmark",
    "evaluate",
    "export",
    "inspect",
    "quantize",
]

# Loaded on first use: `import onnxfq` and `onnxfq --help` must not wait for numba and ONNX.
_HOMES = {
    "Benchmark": "timing.measurements",
    "Evaluation": "evaluation.evaluation",
    "Options": "options",
    "Report": "reports.report",
    "Scheme": "scheme",
    "benchmark": "timing.benchmarking",
    "evaluate": "evaluation.evaluating",
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

    class _Package(ModuleType):
        """This package, in which `evaluate` is the function: importing the room of that name does not hide it."""

        def __setattr__(self, name: str, value: object) -> None:
            if not (name == "evaluate" and isinstance(value, ModuleType)):
                super().__setattr__(name, value)

    sys.modules[__name__].__class__ = _Package
