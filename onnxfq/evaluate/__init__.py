"""What quantisation cost and gained: accuracy, latency, and the gates set on them."""

from __future__ import annotations

from onnxfq.evaluate.accuracy import OutputAccuracy, compare, compare_outputs, run_reference, worst_figures
from onnxfq.evaluate.figures import Figure
from onnxfq.evaluate.gates import Gate, check_gates
from onnxfq.evaluate.kinds import Task
from onnxfq.evaluate.latency import Latency, measure
from onnxfq.evaluate.limits import Limits, parse_limit

__all__ = [
    "Figure",
    "Gate",
    "Latency",
    "Limits",
    "OutputAccuracy",
    "Task",
    "check_gates",
    "compare",
    "compare_outputs",
    "measure",
    "parse_limit",
    "run_reference",
    "worst_figures",
]
