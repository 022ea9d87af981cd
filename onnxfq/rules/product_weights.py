"""The constant weight of a MatMul or Gemm, on either side, or why there is none to quantize.

x · W        W [K, N], or [1, …, 1, K, N], which is the same but for the dimensions of the result
W · x        = (xᵀ · Wᵀ)ᵀ, W [M, K]: the weight has M outputs
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnxfq.graph import MICROSOFT, Constant, Graph, Node, Reshape, type_name
from onnxfq.rules.target import SCALE_TYPES, Skip, Target

SMALLEST_WEIGHT = 1024
PRODUCTS = ("MatMul", "Gemm")
_FUSED = frozenset({"FusedMatMul", "FusedGemm", "TransposeMatMul", "Attention", "MultiHeadAttention", "GemmFastGelu"})
_EXPANDS_FROM = 8  # the operator set that brought Expand


def find_weight(graph: Graph, node: Node) -> Sequence[Target] | Skip | None:
    """The target that a product is, why it is left alone, or None for a node that is no product."""
    if node.op_type in _FUSED and node.domain == MICROSOFT:
        return _fused(graph, node)
    if node.op_type not in PRODUCTS or node.domain:
        return None
    if node.references:
        given = ", ".join(node.references)
        return Skip(node.name, node.op_type, f"the caller of {node.body.root.label} chooses its {given}")
    left, right = graph.constant(node, 0), graph.constant(node, 1)
    if isinstance(right, Constant):
        if isinstance(left, Constant):
            return _skip(node, right, "both inputs are constant: nothing is computed at run time")
        return _target(graph, node, right, left=False)
    if isinstance(left, Constant) and not right.quantized and len(left.shape) > 1:
        return _target(graph, node, left, left=True)
    return Skip(node.name, node.op_type, right.reason, quantized=right.quantized)


def _fused(graph: Graph, node: Node) -> Skip | None:
    if not any(isinstance(graph.constant(node, i), Constant) for i, name in enumerate(node.inputs[:3]) if name):
        return None
    reason = "fused by ONNX Runtime's optimizer: quantize the model as it was exported, before optimization"
    return Skip(node.name, node.op_type, reason)


def _skip(node: Node, weight: Constant, reason: str) -> Skip:
    return Skip(node.name, node.op_type, reason, nbytes=weight.leaf.nbytes)


def _target(graph: Graph, node: Node, weight: Constant, *, left: bool) -> Sequence[Target] | Skip:
    reason = _wrong_shape(graph, node, weight, left=left)
    if reason:
        return _skip(node, weight, reason)
    scale_type = SCALE_TYPES.get(type_name(weight.type))
    if scale_type is None:
        wanted = "MatMulNBits computes in float32, float16 or bfloat16"
        return _skip(node, weight, f"unsupported type: {type_name(weight.type)} weights ({wanted})")
    rows, columns = weight.shape[-2:]
    gemm = node.op_type == "Gemm"
    turned = gemm and bool(node.integer("transA" if left else "transB", 0))
    transposed = turned if left else not turned  # in canonical [N, K] are W of W · x, and the transposed W of x · W
    k, n = (rows, columns) if transposed else (columns, rows)
    if n * k < SMALLEST_WEIGHT:
        return _skip(node, weight, f"too small: {n * k} weights (fewer than {SMALLEST_WEIGHT} are not worth it)")
    matrix = replace(weight, way=weight.way.then(Reshape((rows, columns)))) if len(weight.shape) > 2 else weight
    target = Target(
        name=node.name,
        node=node,
        weight=matrix,
        n=n,
        k=k,
        transposed=transposed,
        alpha=node.real("alpha", 1.0) if gemm else 1.0,
        scale_type=scale_type,
        source=node.inputs[1 if left else 0],
        source_transposed=_reads_columns(graph, node, left=left),
        left=left,
        unit_dimensions=len(weight.shape) - 2,
    )
    return (target,)


def _wrong_shape(graph: Graph, node: Node, weight: Constant, *, left: bool) -> str:
    """Why a constant is no weight that can be multiplied by; "" where it is one."""
    shape = list(weight.shape)
    if len(shape) < 2:
        return f"unsupported shape: the weight has {len(shape)} dimensions {shape}, not 2"
    if any(size != 1 for size in shape[:-2]):
        return f"unsupported shape: the weight is a batch of matrices {shape}, MatMulNBits multiplies by one"
    if len(shape) > 2 and graph.opset(node) < _EXPANDS_FROM:
        return f"unsupported shape: the weight has {len(shape)} dimensions {shape}, and this operator set no Expand"
    if left and node.op_type == "MatMul" and graph.rank(node, 1) is None:
        return "the constant weight is the left operand, and nothing tells how many dimensions the right one has"
    return ""


def _reads_columns(graph: Graph, node: Node, *, left: bool) -> bool:
    """Whether a product sums over the last dimension but one of what it reads besides the weight."""
    if node.op_type == "Gemm":
        return not node.integer("transB", 0) if left else bool(node.integer("transA", 0))
    return left and graph.rank(node, 1) != 1
