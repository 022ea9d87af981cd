"""What quantisation cost and gained: accuracy, latency, and the gates set on them."""

from __future__ import annotations

from onnxfq.evaluate.accuracy import OutputAccuracy, compare, compare_outputs, run_reference
from onnxfq.evaluate.gates import Gate, check_gates
from onnxfq.evaluate.latency import Latency, measure

__all__ = [
    "Gate",
    "Latency",
    "OutputAccuracy",
    "check_gates",
    "compare",
    "compare_outputs",
    "measure",
    "run_reference",
]
