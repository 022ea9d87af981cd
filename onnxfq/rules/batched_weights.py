"""A MatMul with a batch of constant matrices, as experts that all compute at once are: a quantized product for each.

    MatMul(x [..., E, rows, K], W [E, K, N])  → Split(x) → MatMulNBits(x[e], quantized W[e]) … → Concat
    MatMul(x [..., 1, rows, K], W [E, K, N])  → MatMulNBits(x, quantized W[e]) … → Concat

Where nothing tells how many matrices x is, Expand makes E of them first.

One thread of a Xeon with VNNI, 4 bits in blocks of 32 (8 bits in blocks of 128), against float: 8 experts of 512 x 1024
are 4.2 (6.6) times as fast with 1 row, 2.1 (3.1) with 16, .92 (1.36) with 128, as one MatMulNBits is; with 1 row, 4 of
128 x 512 are 1.1 (1.3), 32 of 512 x 1024 7.9 (11) times as fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxfq.graph import Constant, Cut, Graph, Node, NodeProto, Reshape, TensorFile, make_node, type_name
from onnxfq.rules.target import SCALE_TYPES, Skip, Target
from onnxfq.rules.unfit_weights import left_alone, unfit

_BATCH_RANK = 3
_SPLITS_BY_COUNT_FROM = 18  # the operator set from which Split is told how many outputs it has
_EXPANDS_FROM = 8  # the operator set that brought Expand


def is_batch(weight: Constant) -> bool:
    """Whether a constant is several matrices."""
    return any(size != 1 for size in weight.shape[:-2])


def find_in_batch(graph: Graph, node: Node, weight: Constant) -> Sequence[Target] | Skip:
    """The targets that a product with a batch of matrices is, one for each, or why it is left alone."""
    reason = _unsuited(graph, node, weight)
    if reason:
        return left_alone(node, weight, reason)
    count, rows, columns = weight.shape
    reason = unfit(weight, rows * columns)
    if reason:
        return left_alone(node, weight, reason)
    transposed = not node.integer("transB", 0)
    k, n = (rows, columns) if transposed else (columns, rows)
    apart = (graph.rank(node, 0) or 0) >= _BATCH_RANK and _batch_size(graph, node) != 1
    return tuple(
        Target(
            name=f"{node.name}[{index}]",
            node=node,
            weight=replace(weight, way=weight.way.then(Cut(0, index, index + 1)).then(Reshape((rows, columns)))),
            n=n,
            k=k,
            transposed=transposed,
            alpha=node.real("alpha", 1.0),
            scale_type=SCALE_TYPES[type_name(weight.type)],
            source=node.inputs[0],
            slot=index,
            part=index if apart else None,
            stacked=True,
        )
        for index in range(count)
    )


def split(
    graph: Graph, weights: Sequence[Target], tensor_file: TensorFile
) -> tuple[list[str], list[NodeProto], list[str]]:
    """What each of the products reads, the nodes that make it, and what the products are to be called."""
    node, count = weights[0].node, len(weights)
    name, fresh = node.inputs[0], graph.edits.fresh_name
    products = [fresh(f"{node.outputs[0]}_{index}") for index in range(count)]
    axis, size = _batch_axis(graph, node), _batch_size(graph, node)
    if size == 1:
        return [name] * count, [], products
    nodes, whole = [], name
    if size != count:  # what is multiplied with each of the weights, or may be
        whole = fresh(f"{name}_batch")
        shape = graph.add_tensor(node.body, f"{name}_batch_shape", tensor_file, np.array([count, 1, 1], np.int64))
        nodes = [make_node("Expand", [name, shape], [whole])]
    parts = [fresh(f"{name}_{index}") for index in range(count)]
    if graph.opset(node) < _SPLITS_BY_COUNT_FROM:
        nodes.append(make_node("Split", [whole], parts, axis=axis))
    else:
        nodes.append(make_node("Split", [whole], parts, axis=axis, num_outputs=count))
    return parts, nodes, products


def joined(graph: Graph, node: Node, products: Sequence[str]) -> NodeProto:
    """The node that puts the products together."""
    return make_node("Concat", list(products), [node.outputs[0]], axis=_batch_axis(graph, node))


def _unsuited(graph: Graph, node: Node, weight: Constant) -> str:
    """Why the products cannot be computed one by one; "" where they can."""
    batch = f"unsupported shape: the weight is a batch of matrices {list(weight.shape)}"
    if len(weight.shape) != _BATCH_RANK:
        return f"{batch}, and has more than 3 dimensions"
    if any(node.integer(name, 0) for name in ("transA", "transBatchA", "transBatchB")):
        return f"{batch}, and its node turns the activations too"
    if (graph.rank(node, 0) or 0) < _BATCH_RANK - 1:
        return f"{batch}, and nothing tells that what it multiplies is a matrix, or several"
    if _batch_size(graph, node) not in (1, weight.shape[0]) and graph.opset(node) < _EXPANDS_FROM:
        return f"{batch}, and this operator set has no Expand"
    return ""


def _batch_axis(graph: Graph, node: Node) -> int:
    """Of the activations and of the result."""
    return max(0, (graph.rank(node, 0) or 0) - _BATCH_RANK)


def _batch_size(graph: Graph, node: Node) -> int | None:
    """How many matrices of activations there are; None where nothing tells, or where they have no such axis."""
    sizes = graph.sizes(node, 0)
    return sizes[-_BATCH_RANK] if len(sizes) >= _BATCH_RANK else None
