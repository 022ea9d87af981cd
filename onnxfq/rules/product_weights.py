"""The constant weight of a MatMul or Gemm, on either side, or why there is none to quantize.

x · W        W [K, N], or [1, …, 1, K, N], which is the same but for the dimensions of the result
W · x        = (xᵀ · Wᵀ)ᵀ, W [M, K]: the weight has M outputs

FusedMatMul is what ONNX Runtime makes of a MatMul and what stands around it: transpositions and a factor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from onnxfq.graph import MICROSOFT, Constant, Graph, Node, Reshape, type_name
from onnxfq.rules.batched_weights import find_in_batch, is_batch
from onnxfq.rules.target import SCALE_TYPES, Skip, Target
from onnxfq.rules.unfit_weights import left_alone, unfit

_TURNING = ("FusedMatMul", "TransposeMatMul")  # these have two names
_FUSED = frozenset({"FusedGemm", "FusedMatMulActivation", "Attention", "MultiHeadAttention", "GemmFastGelu"})
_FUSED |= {"EmbedLayerNormalization", "PackedAttention", "LongformerAttention", "DecoderMaskedSelfAttention"}
_PRODUCTS = {("MatMul", ""), ("Gemm", ""), *((name, MICROSOFT) for name in _TURNING)}
_OF_BATCHES = ("transBatchA", "transBatchB")
BOTH_CONSTANT = "both inputs are constant: nothing is computed at run time"
_EXPANDS_FROM = 8  # the operator set that brought Expand


def find_weight(graph: Graph, node: Node) -> Sequence[Target] | Skip | None:
    """The target that a product is, why it is left alone, or None for a node that is no product."""
    if node.domain == MICROSOFT and node.op_type in _FUSED:
        return _fused(graph, node)
    if (node.op_type, node.domain) not in _PRODUCTS:
        return None
    if node.references:
        return chosen_by_caller(node)
    left, right = graph.constant(node, 0), graph.constant(node, 1)
    if isinstance(right, Constant):
        if isinstance(left, Constant):
            return left_alone(node, right, BOTH_CONSTANT)
        return _target(graph, node, right, left=False)
    if isinstance(left, Constant) and not right.quantized and len(left.shape) > 1:
        return _target(graph, node, left, left=True)
    return Skip(node.name, node.op_type, right.reason, quantized=right.quantized)


def chosen_by_caller(node: Node) -> Skip:
    """A node of a function that says nothing without its caller."""
    given = ", ".join(node.references)
    return Skip(node.name, node.op_type, f"the caller of {node.body.root.label} chooses its {given}")


def _fused(graph: Graph, node: Node) -> Skip | None:
    """A node with a weight in it and more than a product."""
    values = [graph.constant(node, index) for index, name in enumerate(node.inputs) if name]
    weights = [value for value in values if isinstance(value, Constant)]
    if not weights:
        return None
    reason = "fused by ONNX Runtime's optimizer: quantize the model as it was exported, before optimization"
    return left_alone(node, max(weights, key=lambda value: value.nbytes), reason)


def _target(graph: Graph, node: Node, weight: Constant, *, left: bool) -> Sequence[Target] | Skip:
    if is_batch(weight) and not left:
        return find_in_batch(graph, node, weight)
    reason = _wrong_shape(graph, node, weight, left=left) or unfit(weight, math.prod(weight.shape))
    if reason:
        return left_alone(node, weight, reason)
    rows, columns = weight.shape[-2:]
    turned = bool(node.integer("transA" if left else "transB", 0))  # which MatMul has not
    transposed = turned if left else not turned  # in canonical [N, K] are W of W · x, and the transposed W of x · W
    k, n = (rows, columns) if transposed else (columns, rows)
    matrix = replace(weight, way=weight.way.then(Reshape((rows, columns)))) if len(weight.shape) > 2 else weight
    target = Target(
        name=node.name,
        node=node,
        weight=matrix,
        n=n,
        k=k,
        transposed=transposed,
        alpha=node.real("alpha", 1.0),
        scale_type=SCALE_TYPES[type_name(weight.type)],
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
    if is_batch(weight):
        return f"unsupported shape: the weight is a batch of matrices {shape}, and the left operand"
    if len(shape) > 2 and graph.opset(node) < _EXPANDS_FROM:
        return f"unsupported shape: the weight has {len(shape)} dimensions {shape}, and this operator set no Expand"
    if any(node.integer(name, 0) for name in _OF_BATCHES):
        return "it moves the activations' first dimension too"
    known = node.op_type == "Gemm" or graph.rank(node, int(left)) is not None
    if left and not known:
        return "the constant weight is the left operand, and nothing tells how many dimensions the right one has"
    if node.integer("transA", 0) and not known:
        return "it turns its left operand, and nothing tells how many dimensions that has"
    return ""


def _reads_columns(graph: Graph, node: Node, *, left: bool) -> bool:
    """Whether a product sums over the last dimension but one of what it reads besides the weight."""
    turned = bool(node.integer("transB" if left else "transA", 0))
    return left != turned and graph.rank(node, int(left)) != 1
