"""What values are made of that depend on constants alone: of codes, which make them quantized weights, or of floats.

Codes are spelled in many ways: DequantizeLinear; (Cast(codes) - zero point) * scale; two codes in a byte that BitShift
takes apart; a table of values in which Gather looks codes up. Common to all is that most of what is stored are codes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from onnx import TensorProto

from onnxfq.graph.bodies import Node
from onnxfq.graph.tensors import bit_width, tensor_proto, type_name

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
_LITERALS = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
_CODE_BITS = 8  # at most, of a code that is stored by itself
_FEWEST_CODES = 256  # values; fewer are shapes, zero points and factors
_UNPACKING = frozenset({"BitShift", "BitwiseAnd", "BitwiseOr"})  # of integers of any size, as GPTQ's files hold them
_MOST_LOOKED_AT = 256  # names, to find out whether a value depends on constants alone
_MOST_NODES = 64


def holds_codes(kind: int) -> bool:
    """Whether elements of an ONNX type are such as weights are quantized to."""
    return kind != TensorProto.BOOL and 0 < bit_width(kind) <= _CODE_BITS


def stored_codes(makers: Sequence[Node]) -> str:
    """How a quantized weight is spelled; "" where a value is not one.

    Args:
        makers: all nodes that make the value, of constants alone.
    """
    kinds = {node.op_type for node in makers}
    if "DequantizeLinear" in kinds:
        return "its weight comes from DequantizeLinear"
    stored = [tensor for node in makers for tensor in _stored(node)]
    unpacked = not _UNPACKING.isdisjoint(kinds)
    codes = [t for t in stored if holds_codes(t.data_type) or (unpacked and 0 < bit_width(t.data_type) <= 32
             and t.data_type not in FLOATS)]  # fmt: skip
    largest = max(codes, key=_count, default=None)
    floats = max((_count(tensor) for tensor in stored if tensor.data_type in FLOATS), default=0)
    if largest is None or _count(largest) < _FEWEST_CODES or floats >= _count(largest):
        return ""  # such as a float weight and a mask of its size
    return f"its weight is cast from {type_name(largest.data_type)}"


def literal(node: Node, name: str) -> TensorProto | None:
    """What a Constant node holds, if that is a dense tensor of numbers."""
    value = node.attributes.get("value")
    for form, dtype in _LITERALS.items():
        if node.has(form):
            value = tensor_proto(name, np.array(node.attributes[form], dtype))
    return value if isinstance(value, TensorProto) else None


def constant_makers(node: Node) -> list[Node]:
    """The nodes that make a value of constants alone; none where it depends on more, or that takes long to tell."""
    pending, found, seen, looked_at = [node], list[Node](), {(node.body, node.outputs)}, 0
    while pending:
        node = pending.pop()
        found.append(node)
        looked_at += len(node.proto.input)
        if looked_at > _MOST_LOOKED_AT or len(seen) > _MOST_NODES or len(node.proto.attribute) > _MOST_NODES:
            return []
        foreign = node.domain not in ("", "com.microsoft") or any(a.HasField("g") for a in node.proto.attribute)
        if foreign or not (node.inputs or node.op_type == "Constant"):
            return []
        for name in filter(None, node.inputs):
            home = node.body.home_of(name)
            if home is None or name in home.inputs:
                return []
            source = Node(home.producers[name], home) if name in home.producers else None
            if source and (home, source.outputs) not in seen:
                seen.add((home, source.outputs))
                pending.append(source)
    return found


def _stored(node: Node) -> Iterator[TensorProto]:
    """The constants that a node reads."""
    for name in filter(None, node.inputs):
        home = node.body.home_of(name)
        if home is None:
            continue
        maker = home.producers.get(name)
        held = literal(Node(maker, home), name) if maker is not None and maker.op_type == "Constant" else None
        tensor = home.initializers.get(name, held)
        if tensor is not None:
            yield tensor


def _count(tensor: TensorProto) -> int:
    return math.prod(tensor.dims)
