"""Running a model piece by piece: only one piece's weights are in memory at a time, and what passes between them."""

from __future__ import annotations

from onnxfq.streaming.pieces import PART_OF_MEMORY, Pieces, Runtime, held
from onnxfq.streaming.segments import Segment, cut
from onnxfq.streaming.values import Values

__all__ = ["PART_OF_MEMORY", "Pieces", "Runtime", "Segment", "Values", "cut", "held"]
