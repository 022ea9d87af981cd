"""What stands around a quantized product, so that its result is that of the node in whose place it is.

[Transpose →] [Reshape →] MatMulNBits [→ Reshape] [→ Transpose] [→ Expand] [→ Add]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from onnxfq.arrays import Float64Array
from onnxfq.graph import Constant, Graph, NodeProto, NotConstant, TensorFile, make_node
from onnxfq.quantized import STORED_TYPES
from onnxfq.rules.bias import shifted
from onnxfq.rules.target import Target

Step = Callable[[str, str], list[NodeProto]]  # nodes from one value to another
_SLICES_BY_INPUTS_FROM = 10  # the operator set from which Slice takes its limits as inputs


def steps_before(graph: Graph, target: Target, tensor_file: TensorFile) -> tuple[str, list[NodeProto]]:
    """What the quantized product reads, and the nodes that make it of the activations."""
    value, nodes = target.node.inputs[target.operand], []
    for word, step in [("transposed", _swapped(graph, target)), ("flat", _joined(graph, target, tensor_file))]:
        if step:
            result = graph.edits.fresh_name(f"{value}_{word}")
            nodes += step(value, result)
            value = result
    return value, nodes


def rank_before(graph: Graph, target: Target) -> int | None:
    """How many dimensions the quantized product reads; None where nothing tells."""
    rank = _rank(graph, target)
    return rank if rank is None or not target.axes else rank - target.axes.inputs + 1


def steps_after(graph: Graph, target: Target, tensor_file: TensorFile) -> list[tuple[str, Step]]:
    """What makes the result of the product, each with a word for what it reads."""
    steps = [
        ("flat", _split(graph, target, tensor_file)),
        ("turned", _swapped_back(graph, target)),
        ("narrow", _expanded(graph, target, tensor_file)),
    ]
    return [(word, step) for word, step in steps if step]


def _swapped(graph: Graph, target: Target) -> Step | None:
    """Turn what is fed; None where its last dimensions are those of the weight's inputs."""
    if target.axes:
        return _permuted(target.axes.before)
    return _permuted(_swap(_rank(graph, target) or 2)) if target.source_transposed else None


def _swapped_back(graph: Graph, target: Target) -> Step | None:
    """Turn the product; None where its dimensions stand as in the result."""
    if target.axes:
        return _permuted(target.axes.after)
    rank = _rank(graph, target) or 2
    return _permuted(_swap(rank)) if target.left and rank > 1 else None


def _permuted(order: Sequence[int]) -> Step | None:
    if not order:
        return None
    return lambda value, result: [make_node("Transpose", [value], [result], perm=list(order))]


def _joined(graph: Graph, target: Target, tensor_file: TensorFile) -> Step | None:
    """Make one dimension of the weight's inputs, where they are several."""
    if not target.axes or target.axes.inputs == 1:
        return None
    return _reshaped(graph, target, (target.k,), tensor_file)


def _split(graph: Graph, target: Target, tensor_file: TensorFile) -> Step | None:
    """Make several dimensions of the weight's outputs, where they are to be several."""
    if not target.axes or len(target.axes.outputs) == 1:
        return None
    return _reshaped(graph, target, target.axes.outputs, tensor_file)


def _reshaped(graph: Graph, target: Target, last: Sequence[int], tensor_file: TensorFile) -> Step:
    """Other dimensions in place of the last; those before, the rows, stay, however many they are."""
    rows = target.axes.rows if target.axes else 0
    shape = _constant(graph, target, [*[0] * rows, *last], tensor_file)
    return lambda value, result: [make_node("Reshape", [value, shape], [result])]


def _expanded(graph: Graph, target: Target, tensor_file: TensorFile) -> Step | None:
    """Put dimensions of 1 before the product's, where the weight [1, …, 1, K, N] has more than what it multiplies."""
    rank, wanted = _rank(graph, target), target.unit_dimensions + 2
    if not target.unit_dimensions or (rank or 0) >= wanted:
        return None

    def step(value: str, result: str) -> list[NodeProto]:
        if rank is None:
            *before, shape = _measured_shape(graph, target, tensor_file)
        else:
            before, shape = [], _constant(graph, target, [1] * (wanted if rank > 1 else wanted - 1), tensor_file)
        return [*before, make_node("Expand", [value, shape], [result])]

    return step


def added(graph: Graph, target: Target, row: str, tensor_file: TensorFile) -> Step:
    """Add beta · C to the product; `row` is that term where it is known."""

    def step(value: str, result: str) -> list[NodeProto]:
        term, beta, nodes = row or target.node.inputs[2], target.node.real("beta", 1.0), []
        if beta != 1.0 and not row:
            array = np.array(beta, STORED_TYPES[target.scale_type])
            factor = graph.add_tensor(target.node.body, f"{term}_beta", tensor_file, array)
            scaled = graph.edits.fresh_name(f"{term}_scaled")
            nodes = [make_node("Mul", [term, factor], [scaled])]
            term = scaled
        return [*nodes, make_node("Add", [value, term], [result])]

    return step


def bias_row(graph: Graph, target: Target, shift: Float64Array | None, tensor_file: TensorFile) -> str:
    """The name of a Gemm's C as [N] with beta and the shift in it; "" where there is no such constant."""
    bias = _bias(graph, target)
    if target.left or not isinstance(bias, Constant) or bias.shape not in ((target.n,), (1, target.n)):
        return ""
    name, beta = target.node.inputs[2], target.node.real("beta", 1.0)
    if beta == 1.0 and len(bias.shape) == 1 and shift is None:
        return name
    return graph.add_tensor(
        bias.home, f"{name}_row", tensor_file, shifted(bias, np.zeros(1) if shift is None else shift, beta)
    )


def has_bias(graph: Graph, target: Target) -> bool:
    """Whether a product adds a term C of its own, as Gemm may."""
    return _bias(graph, target) is not None


def _bias(graph: Graph, target: Target) -> Constant | NotConstant | None:
    node = target.node
    given = len(node.inputs) > 2 and node.inputs[2] and node.real("beta", 1.0) != 0.0
    return graph.constant(node, 2) if given else None


def linked(graph: Graph, steps: Sequence[tuple[str, Step]], output: str) -> tuple[str, list[NodeProto]]:
    """The value that the first of some steps reads, and all their nodes, the last of which gives `output`.

    Args:
        graph: the model.
        steps: each with a word for what it reads.
        output: a name; without steps, the value itself.
    """
    names = [*(graph.edits.fresh_name(f"{output}_{word}") for word, _ in steps), output]
    nodes = [node for (_, step), value, result in zip(steps, names, names[1:], strict=False)
             for node in step(value, result)]  # fmt: skip
    return names[0], nodes


def _measured_shape(graph: Graph, target: Target, tensor_file: TensorFile) -> list[NodeProto | str]:
    """Nodes that make the shape to expand to, and its name: [1, …, 1, rows, 1], without rows for a vector."""
    source, fresh = target.source, graph.edits.fresh_name
    shape, rows, wanted = fresh(f"{source}_shape"), fresh(f"{source}_rows"), fresh(f"{source}_wanted")
    if graph.opset(target.node) < _SLICES_BY_INPUTS_FROM:
        cut = make_node("Slice", [shape], [rows], starts=[-2], ends=[-1], axes=[0])
    else:
        limits = [_constant(graph, target, [limit], tensor_file) for limit in (-2, -1)]
        cut = make_node("Slice", [shape, *limits], [rows])
    ones = [_constant(graph, target, [1] * count, tensor_file) for count in (target.unit_dimensions, 1)]
    joined = make_node("Concat", [ones[0], rows, ones[1]], [wanted], axis=0)
    return [make_node("Shape", [source], [shape]), cut, joined, wanted]


def _constant(graph: Graph, target: Target, values: Sequence[int], tensor_file: TensorFile) -> str:
    array = np.array(values, np.int64)
    return graph.add_tensor(target.node.body, f"{target.node.outputs[0]}_dimensions", tensor_file, array)


def _rank(graph: Graph, target: Target) -> int | None:
    """Of what the weight is multiplied with."""
    return graph.rank(target.node, target.operand)


def _swap(rank: int) -> list[int]:
    return [*range(rank - 2), rank - 1, rank - 2]
