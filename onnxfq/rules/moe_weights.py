"""The weights of com.microsoft.MoE, or why they are left alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from onnxfq.graph import MICROSOFT, Constant, Graph, Node, Reshape, type_name
from onnxfq.rules.target import SCALE_TYPES, Skip, Target
from onnxfq.rules.unfit_weights import left_alone, unfit
from onnxfq.scheme import BLOCK_SIZES

WEIGHTS = (("fc1", 2), ("fc2", 4))  # what they are called in reports, and their positions among the inputs
_GATE = 6  # the input that is a third weight
_STACK_RANK = 3
_ACTIVATIONS = ("relu", "gelu", "silu", "swiglu", "identity")
_INTERLEAVED = 1  # what swiglu_fusion says of gates that stand beside the values they are for


def find_experts(graph: Graph, node: Node) -> Sequence[Target] | Skip | None:
    """The two targets that such a node is, why it is left alone, or None for other nodes."""
    if node.op_type != "MoE" or node.domain != MICROSOFT:
        return None
    if node.references:
        given = ", ".join(node.references)
        return Skip(node.name, node.op_type, f"the caller of {node.body.root.label} chooses its {given}")
    values = [graph.constant(node, index) for _, index in WEIGHTS]
    weights = [value for value in values if isinstance(value, Constant)]
    if len(weights) < len(values):
        told = next(value for value in values if not isinstance(value, Constant))
        return Skip(node.name, node.op_type, told.reason, quantized=told.quantized)
    reason = _unsuited(node, weights) or next(filter(None, (_unfit(weight) for weight in weights)), "")
    if reason:
        largest = max(weights, key=lambda weight: weight.nbytes)
        return replace(left_alone(node, largest, reason), nbytes=sum(weight.nbytes for weight in weights))
    return [_target(node, slot, weights) for slot in range(len(WEIGHTS))]


def _target(node: Node, slot: int, weights: Sequence[Constant]) -> Target:
    """One weight of all experts, as one matrix of their rows."""
    experts, rows, k = weights[slot].shape
    stack = replace(weights[slot], way=weights[slot].way.then(Reshape((experts * rows, k))))
    return Target(
        name=f"{node.name}[{WEIGHTS[slot][0]}]",
        node=node,
        weight=stack,
        n=experts * rows,
        k=k,
        transposed=False,
        alpha=1.0,
        scale_type=SCALE_TYPES[type_name(stack.type)],
        source="" if slot else node.inputs[0],
        slot=slot,
        stacked=True,
        experts=experts,
        divided=math.gcd(*(weight.shape[-1] for weight in weights)),
    )


def _unfit(weight: Constant) -> str:
    kind = type_name(weight.type)
    if kind == "bfloat16":
        return "unsupported type: bfloat16 weights (QMoE computes in float32 or float16)"
    return unfit(weight, math.prod(weight.shape))


def _unsuited(node: Node, weights: Sequence[Constant]) -> str:
    """Why QMoE cannot compute what the node does; "" where it can."""
    first, second = (weight.shape for weight in weights)
    activation, fusion = node.text("activation_type") or "relu", node.integer("swiglu_fusion", 0)
    if len(node.inputs) > _GATE and node.inputs[_GATE]:
        return "its experts have a third weight (FC3), which ONNX Runtime's QMoE does not compute"
    if activation not in _ACTIVATIONS:
        return f"QMoE knows no activation '{activation}' (it has {', '.join(_ACTIVATIONS)})"
    if activation == "swiglu" and fusion != _INTERLEAVED:
        return f"QMoE computes swiglu with swiglu_fusion=1 only, not {fusion}"
    width = 2 if activation == "swiglu" else 1
    fits = len(first) == len(second) == _STACK_RANK and first == (second[0], width * second[2], second[1])
    if not fits:
        return f"unsupported shape: experts of {list(first)} and {list(second)}"
    smallest = min(BLOCK_SIZES)
    if first[2] % smallest or second[2] % smallest:
        got = f"(got {first[2]} and {second[2]})"
        return f"unsupported shape: QMoE wants sizes in whole blocks of {smallest} or more {got}"
    return ""
