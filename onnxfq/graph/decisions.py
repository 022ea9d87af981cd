"""Values that decide what is computed, rather than being computed with: the rows of an expert, the branch of an If."""

from __future__ import annotations

from onnx import NodeProto, TensorProto

from onnxfq.graph.bodies import Node
from onnxfq.graph.model import make_node

_ALWAYS = frozenset(
    {"NonZero", "Unique", "ArgMax", "ArgMin", "NonMaxSuppression", "Multinomial", "IsNaN", "IsInf"}
    | {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}
)
_CASTS = (TensorProto.BOOL, TensorProto.INT32, TensorProto.INT64)


def choices(node: Node) -> frozenset[str]:
    """Those of a node's outputs that decide: indices of what was found, truth values, numbers turned into integers."""
    if node.domain:
        return frozenset()
    if node.op_type in _ALWAYS or (node.op_type == "Cast" and node.integer("to", 0) in _CASTS):
        return frozenset(node.outputs)
    return frozenset(node.outputs[1:]) if node.op_type == "TopK" else frozenset()


def follow(node: Node) -> NodeProto:
    """What computes the rest of a node's outputs from other inputs, once its decisions are made.

    The largest values of TopK are then those at the given indices, whatever else became large.
    """
    if node.op_type != "TopK" or node.domain or len(node.outputs) < 2 or not node.outputs[1]:
        return node.proto
    axis = node.integer("axis", -1)
    return make_node("GatherElements", [node.inputs[0], node.outputs[1]], [node.outputs[0]], axis=axis)
