"""Which inputs of which operators are weights that may be stored small, and which of their axes are channels.

A channel is what an output is made of: the weights that are multiplied with one set of inputs and added up. A scale for
each leaves an error that follows the channel's own size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from onnxfq.graph import MICROSOFT, Graph, Node, constant_makers, is_detour
from onnxfq.rules.channels import Channels, Ints

Find = Callable[[Node, Ints], Channels | None]  # None where the shape is none that the operator takes


def _leading(count: int) -> Find:
    """The first axes are the channels."""

    def find(node: Node, shape: Ints) -> Channels | None:
        return Channels(shape, shape, tuple(range(count))) if len(shape) > count else None

    return find


def _all_but(axis: int) -> Find:
    """All axes but one, counted from the end, are channels."""

    def find(node: Node, shape: Ints) -> Channels | None:
        rank = len(shape)
        return Channels(shape, shape, tuple(i for i in range(rank) if i != rank + axis)) if rank >= -axis else None

    return find


def _transposed_convolution(node: Node, shape: Ints) -> Channels | None:
    """[inputs, outputs of a group, …]: every group has inputs and outputs of its own."""
    groups = node.integer("group", 1)
    if len(shape) < 3 or groups < 1 or shape[0] % groups:
        return None
    if groups == 1:
        return Channels(shape, shape, (1,))
    return Channels(shape, (groups, shape[0] // groups, *shape[1:]), (0, 2))


def _operand(turned_by: str, summed: int) -> Find:
    """An operand of a product, whose axis that is summed over is another one where an attribute says so."""

    def find(node: Node, shape: Ints) -> Channels | None:
        axis = -3 - summed if node.integer(turned_by, 0) else summed
        if len(shape) < 2 or any(node.integer(name, 0) for name in ("transBatchA", "transBatchB")):
            return None
        return _all_but(axis)(node, shape)

    return find


def _rows(node: Node, shape: Ints) -> Channels | None:
    """Rows of a table, unless it is one of embeddings, which have a rule and a setting of their own."""
    embeddings = len(shape) == 2 and node.integer("axis", 0) in (0, -2)
    return None if embeddings else _all_but(-1)(node, shape)


def _of_einsum(operand: int) -> Find:
    """Letters that are in the result are channels, the others are summed over."""

    def find(node: Node, shape: Ints) -> Channels | None:
        left, arrow, result = node.text("equation").replace(" ", "").partition("->")
        terms = left.split(",")
        term = terms[operand] if operand < len(terms) else ""
        if not arrow or len(term) != len(shape) or not term.isalpha():
            return None
        axes = tuple(i for i, letter in enumerate(term) if letter in result)
        return Channels(shape, shape, axes) if 0 < len(axes) < len(shape) else None

    return find


_MOVING = {"Slice": {0: _all_but(-1)}, "Split": {0: _all_but(-1)}, "Concat": dict.fromkeys(range(8), _all_but(-1))}
_RECURRENT = {1: _leading(2), 2: _leading(2)}  # [directions, outputs of all gates, inputs]
_PRODUCT = {0: _operand("transA", -1), 1: _operand("transB", -2)}
_CONVOLUTION = {1: _leading(1)}
_EINSUM = {operand: _of_einsum(operand) for operand in range(3)}

STORED_INPUTS: Mapping[tuple[str, str], Mapping[int, Find]] = {
    ("Conv", ""): _CONVOLUTION,
    ("DeformConv", ""): _CONVOLUTION,
    ("ConvTranspose", ""): {1: _transposed_convolution},
    **dict.fromkeys((("LSTM", ""), ("GRU", ""), ("RNN", "")), _RECURRENT),
    **dict.fromkeys((("MatMul", ""), ("Gemm", "")), _PRODUCT),
    ("Einsum", ""): _EINSUM,
    ("Gather", ""): {0: _rows},
    ("FusedConv", MICROSOFT): _CONVOLUTION,
    **dict.fromkeys((("FusedMatMul", MICROSOFT), ("FusedGemm", MICROSOFT)), _PRODUCT),
    **{(name, ""): inputs for name, inputs in _MOVING.items()},
    ("Attention", MICROSOFT): {1: _all_but(-2)},
    ("MoE", MICROSOFT): {2: _all_but(-1), 4: _all_but(-1), 6: _all_but(-1)},
}


def channels_of(node: Node, index: int, shape: Ints) -> Channels | None:
    """How a constant is seen that a node reads as its input number `index`; None where that is no such weight."""
    find = STORED_INPUTS.get((node.op_type, node.domain), {}).get(index)
    return find(node, shape) if find else None


def moves_weights(graph: Graph, node: Node) -> bool:
    """Whether a node only puts constants together, or takes them apart, that are such weights of other nodes.

    Exporters change the order of a recurrent layer's gates like that.
    """
    pending, seen = [node], {id(node.proto)}
    while pending:
        node = pending.pop()
        if not constant_makers(node):
            return False
        for output in filter(None, node.outputs):
            for reader, index in graph.readers(node, output):
                if reader is None:
                    return False
                moves = reader.op_type in _MOVING and not reader.domain and index in _MOVING[reader.op_type]
                if not moves and not (is_detour(reader) and index == 0):
                    if index not in STORED_INPUTS.get((reader.op_type, reader.domain), {}):
                        return False
                elif id(reader.proto) not in seen:
                    seen.add(id(reader.proto))
                    pending.append(reader)
    return True


def moves_for_others(graph: Graph, node: Node, taken: Collection[int]) -> bool:
    """Whether what a node moves is read by any node but those of which weights are taken, by the id of their protos."""
    pending, seen = [node], {id(node.proto)}
    while pending:
        node = pending.pop()
        for reader, _ in (found for output in filter(None, node.outputs) for found in graph.readers(node, output)):
            if reader is None:
                return True
            if id(reader.proto) in taken or id(reader.proto) in seen:
                continue
            if not (is_moving(reader) or is_detour(reader)):
                return True
            seen.add(id(reader.proto))
            pending.append(reader)
    return False


def is_moving(node: Node) -> bool:
    """Whether a node is of a kind that moves constants."""
    return node.op_type in _MOVING and not node.domain
