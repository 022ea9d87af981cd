"""Values that decide what is computed, rather than being computed with: the rows of an expert, the branch of an If."""

from __future__ import annotations

from onnx import NodeProto, TensorProto

from onnxfq.graph.bodies import Node
from onnxfq.graph.model import Graph, make_node

_ALWAYS = frozenset(
    {"NonZero", "Unique", "ArgMax", "ArgMin", "NonMaxSuppression", "Multinomial", "IsNaN", "IsInf"}
    | {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}
)
_GATHER_ELEMENTS = 11  # the operator set that brought it
_CASTS = (TensorProto.BOOL, TensorProto.INT32, TensorProto.INT64)


def choices(graph: Graph, node: Node) -> frozenset[str]:
    """Those of a node's outputs that decide: indices of what was found, truth values, numbers turned into integers."""
    if node.domain:
        return frozenset()
    if node.op_type in _ALWAYS or (node.op_type == "Cast" and node.integer("to", 0) in _CASTS):
        return frozenset(node.outputs)
    return frozenset(node.outputs[1:]) if _gathers(graph, node) else frozenset()


def follow(graph: Graph, node: Node) -> NodeProto:
    """What computes the rest of a node's outputs from other inputs, once its decisions are made.

    The largest values of TopK are then those at the given indices, whatever else became large.
    """
    if not _gathers(graph, node):
        return node.proto
    axis = node.integer("axis", -1)
    return make_node("GatherElements", [node.inputs[0], node.outputs[1]], [node.outputs[0]], axis=axis)


def _gathers(graph: Graph, node: Node) -> bool:
    """Whether a node is a TopK whose values are those at given indices."""
    named = node.op_type == "TopK" and not node.domain and len(node.outputs) > 1 and bool(node.outputs[1])
    return named and graph.opset(node) >= _GATHER_ELEMENTS
