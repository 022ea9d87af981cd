"""What a normalization layer says about the inputs of the node behind it, without any data.

LayerNormalization makes each row's values average 0 and their squares average 1, then multiplies by γ and adds β. Over
many rows, input k therefore has about E[x_k²] = γ_k² + β_k² (γ_k² after RMS normalization, which adds nothing): errors
in weights that meet large inputs cost more, and data-free solvers may weigh them so.

Differs from what the papers do: AWQ (Lin et al. 2023) measures activations; this reads them off the graph.
"""

from __future__ import annotations

import numpy as np

from onnxfq.arrays import Float64Array
from onnxfq.graph import Constant, Graph, Node
from onnxfq.rules.target import Target

# Position of γ and of β among the inputs; only the first output is the normalized one.
OPERATORS = {
    "LayerNormalization": (1, 2),
    "SimplifiedLayerNormalization": (1, None),
    "RMSNormalization": (1, None),
    "SkipLayerNormalization": (2, 3),
    "SkipSimplifiedLayerNormalization": (2, None),
}
_PASSING = frozenset({"Identity", "Cast", "Dropout"})
_LONGEST = 8


def expected_mean_square(graph: Graph, target: Target) -> Float64Array | None:
    """E[x²] of each of a target's K inputs, relative to their mean; None where no normalization comes before it."""
    known = target.source and not target.source_transposed
    source = _producer(graph, target.node, target.node.inputs.index(target.source)) if known else None
    if source is None:
        return None
    if source.op_type in OPERATORS:
        gamma, beta = OPERATORS[source.op_type]
        mean_square = _mean_square(graph, source, gamma, beta)
    else:
        mean_square = _decomposed(graph, source)
    if (
        mean_square is None
        or mean_square.shape != (target.k,)
        or not np.isfinite(mean_square).all()
        or not mean_square.mean() > 0
    ):
        return None
    return np.asarray(mean_square / mean_square.mean())


def _producer(graph: Graph, node: Node, index: int) -> Node | None:
    """The node that computes an input, with nodes that change nothing passed over."""
    for _ in range(_LONGEST):
        if index >= len(node.inputs) or not node.inputs[index]:
            return None
        found = graph.producer(node, index)
        if found is None or found.op_type not in _PASSING:
            return found
        node, index = found, 0
    return None


def _vector(graph: Graph, node: Node, index: int) -> Float64Array | None:
    """A constant input as a vector."""
    if index >= len(node.inputs) or not node.inputs[index]:
        return None
    value = graph.constant(node, index)
    if not isinstance(value, Constant) or sum(d > 1 for d in value.shape) > 1 or not value.shape:
        return None
    return np.asarray(value.load(), np.float64).reshape(-1)


def _mean_square(graph: Graph, node: Node, gamma: int, beta: int | None) -> Float64Array | None:
    scale = _vector(graph, node, gamma)
    if scale is None:
        return None
    shift = _vector(graph, node, beta) if beta is not None else None
    given = beta is not None and beta < len(node.inputs) and bool(node.inputs[beta])
    if given and (shift is None or shift.shape != scale.shape):
        return None
    return np.asarray(scale**2 + (0 if shift is None else shift**2))


def _decomposed(graph: Graph, node: Node) -> Float64Array | None:
    """The same for exports that spell the layer out: [Add(] Mul(normalized, γ) [, β)]."""
    shift: Float64Array | None = None
    if node.op_type == "Add":
        side = next((i for i in (0, 1) if _vector(graph, node, i) is not None), None)
        inner = None if side is None else _producer(graph, node, 1 - side)
        if side is None or inner is None:
            return None
        shift, node = _vector(graph, node, side), inner
    if node.op_type != "Mul":
        return None
    for side in (0, 1):
        scale = _vector(graph, node, side)
        inner = _producer(graph, node, 1 - side)
        if scale is not None and inner is not None and _is_normalised(graph, inner):
            if shift is not None and shift.shape != scale.shape:
                return None
            return np.asarray(scale**2 + (0 if shift is None else shift**2))
    return None


def _is_normalised(graph: Graph, node: Node) -> bool:
    """Whether a node divides by a square root: x / √v, or x · (1 / √v)."""
    if node.op_type == "Div":
        return _is(graph, node, 1, "Sqrt")
    if node.op_type != "Mul":
        return False
    for side in (0, 1):
        factor = _producer(graph, node, side)
        if factor is None:
            continue
        if factor.op_type == "Reciprocal" and _is(graph, factor, 0, "Sqrt"):
            return True
        if factor.op_type == "Div" and _is(graph, factor, 1, "Sqrt"):
            return True
    return False


def _is(graph: Graph, node: Node, index: int, op_type: str) -> bool:
    found = _producer(graph, node, index)
    return found is not None and found.op_type == op_type
