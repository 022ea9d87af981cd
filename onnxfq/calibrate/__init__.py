"""Running a model stage by stage, as it is and as it is being quantised, to measure what solvers want to know."""

from __future__ import annotations

from onnxfq.calibrate.checkpoint import Checkpoint, checkpoint, count_stages, discard, refuse_foreign
from onnxfq.calibrate.shards import forget_program
from onnxfq.calibrate.stages import Stage, find_stages
from onnxfq.calibrate.streams import Streams

__all__ = [
    "Checkpoint",
    "Stage",
    "Streams",
    "checkpoint",
    "count_stages",
    "discard",
    "find_stages",
    "forget_program",
    "refuse_foreign",
]
