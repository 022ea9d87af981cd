"""Constants that are not quantized, whatever multiplies by them."""

from __future__ import annotations

from onnxfq.graph import Constant, Node, type_name
from onnxfq.rules.target import SCALE_TYPES, Skip

SMALLEST_WEIGHT = 1024


def left_alone(node: Node, weight: Constant, reason: str) -> Skip:
    """A node that is not quantized, with the bytes of its weight."""
    return Skip(node.name, node.op_type, reason, nbytes=weight.nbytes)


def unfit(weight: Constant, count: int) -> str:
    """Why a constant of so many weights is not quantized, whatever its dimensions; "" where nothing speaks against."""
    if type_name(weight.type) not in SCALE_TYPES:
        wanted = "MatMulNBits computes in float32, float16 or bfloat16"
        return f"unsupported type: {type_name(weight.type)} weights ({wanted})"
    if count < SMALLEST_WEIGHT:
        return f"too small: {count} weights (fewer than {SMALLEST_WEIGHT} are not worth it)"
    return ""
