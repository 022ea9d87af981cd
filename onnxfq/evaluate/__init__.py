"""What quantisation cost and gained: accuracy, latency, and the gates set on them."""

from __future__ import annotations

from onnxfq.evaluate.accuracy import (
    OutputAccuracy,
    compare,
    compare_outputs,
    has_logits,
    run_both,
    run_reference,
    worst_figures,
)
from onnxfq.evaluate.figures import Figure
from onnxfq.evaluate.gates import Gate, require_all
from onnxfq.evaluate.kinds import Task
from onnxfq.evaluate.latency import Latency, measure
from onnxfq.evaluate.limits import Limits, parse_limit
from onnxfq.evaluate.measured import measured

__all__ = [
    "Figure",
    "Gate",
    "Latency",
    "Limits",
    "OutputAccuracy",
    "Task",
    "compare",
    "compare_outputs",
    "has_logits",
    "measure",
    "measured",
    "parse_limit",
    "require_all",
    "run_both",
    "run_reference",
    "worst_figures",
]
