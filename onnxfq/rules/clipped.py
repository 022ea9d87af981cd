"""Products that are clipped by the next node: ONNX Runtime makes MatMulNBits of them only where they are written so.

    DequantizeLinear → MatMul or Gemm → Relu or Clip              stays as it is: dequantized in every run
    DequantizeLinear → MatMul → Add of a row → Relu or Clip       likewise, where rows are a matrix: it becomes a Gemm
    DequantizeLinear → Gemm without C → Add of a row → the same   is fused, and so is MatMul where rows are no matrix

Tried with ONNX Runtime 1.31.1.
"""

from __future__ import annotations

from onnxfq.graph import Graph, Node, NodeProto
from onnxfq.rules.target import Target

_CLIPS = ("Relu", "Clip")


def is_clipped(target: Target) -> bool:
    """Whether the only node that reads a product clips it."""
    reader = _only_reader(target.node, target.node.outputs[0])
    return reader is not None and reader.op_type in _CLIPS


def is_added_and_clipped(target: Target) -> bool:
    """Whether the only node that reads a product is an Add, and the only one that reads the sum clips it."""
    add = _only_reader(target.node, target.node.outputs[0])
    clip = _only_reader(target.node, add.output[0]) if add is not None and add.op_type == "Add" else None
    return clip is not None and clip.op_type in _CLIPS


def multiplies_matrices(graph: Graph, target: Target) -> bool:
    """Whether what is multiplied is known to be a matrix, as Gemm wants it."""
    if target.axes and target.axes.rows:
        return target.axes.rows == 1
    return target.node.op_type == "Gemm" or graph.rank(target.node, target.operand) == 2


def _only_reader(node: Node, name: str) -> NodeProto | None:
    """The node that alone reads a value in its scope; None where there are several, or none."""
    readers = [proto for proto in node.body.proto.node if name in proto.input]
    return readers[0] if len(readers) == 1 and not readers[0].domain else None
