"""Reading a model's inputs and outputs, and how many ids its embeddings know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from onnx import ModelProto, NodeProto, TensorProto, TensorShapeProto, ValueInfoProto

from onnxfq.graph.bodies import Body, Node
from onnxfq.graph.constants import OVERRIDABLE_FROM_IR, NotConstant, resolve
from onnxfq.graph.tensors import type_name
from onnxfq.signature import Dimension, Signature, TensorSpec

# Operators through which token ids pass unchanged on their way to the embedding.
_PASSING = frozenset(
    {"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Slice", "Expand", "Concat"}
)
_EMBEDDINGS = frozenset({"Gather", "GatherBlockQuantized"})
_MOST_ORIGINS = 16
_INTEGERS = (TensorProto.INT32, TensorProto.INT64)


def read_signature(model: ModelProto, bodies: list[Body], path: Path) -> Signature:
    """The inputs that callers must feed, those that have a default, and the outputs."""
    main = bodies[0]
    given = [info for info in model.graph.input if info.name not in main.initializers]
    replaceable = model.graph.input if model.ir_version >= OVERRIDABLE_FROM_IR else ()
    defaults = [info for info in replaceable if info.name in main.initializers]
    ids = [info.name for info in given if info.type.tensor_type.elem_type in _INTEGERS]
    rows = _vocabularies(ids, bodies, path)
    return Signature(
        tuple(_spec(info, rows) for info in given),
        tuple(_spec(info, {}) for info in model.graph.output),
        tuple(_spec(info, {}) for info in defaults),
    )


def _spec(info: ValueInfoProto, vocabularies: Mapping[str, int]) -> TensorSpec:
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        return TensorSpec(info.name, (kind or "unknown").removesuffix("_type"), None)
    tensor = info.type.tensor_type
    shape = tuple(_dimension(d) for d in tensor.shape.dim) if tensor.HasField("shape") else None
    return TensorSpec(info.name, type_name(tensor.elem_type), shape, vocabularies.get(info.name))


def _dimension(dim: TensorShapeProto.Dimension) -> Dimension:
    kind = dim.WhichOneof("value")
    if kind is None:
        return None
    return int(dim.dim_value) if kind == "dim_value" else str(dim.dim_param)


def _vocabularies(ids: Iterable[str], bodies: list[Body], path: Path) -> dict[str, int]:
    """Rows of the smallest embedding that each of some inputs indexes, in whatever scope."""
    origins = {name: frozenset([name]) for name in ids}  # the inputs that a value is made of
    rows: dict[str, int] = {}
    for body in bodies if origins else ():
        if body.is_function:
            continue
        for proto in body.proto.node:
            if proto.op_type in _PASSING:
                _pass_on(proto, origins)
            elif proto.op_type in _EMBEDDINGS and len(proto.input) > 1 and proto.input[1] in origins:
                size = _rows(Node(proto, body), path)
                rows |= {name: min(size, rows.get(name, size)) for name in origins[proto.input[1]] if size}
    return rows


def _pass_on(proto: NodeProto, origins: dict[str, frozenset[str]]) -> None:
    """Make known what a node's outputs are made of; what is made of very many inputs counts as made of none."""
    sources = proto.input if proto.op_type == "Concat" else proto.input[:1]
    found = frozenset().union(*(origins.get(name, frozenset()) for name in sources))
    if 0 < len(found) <= _MOST_ORIGINS:
        for output in proto.output:
            origins[output] = origins.get(output, frozenset()) | found


def _rows(node: Node, path: Path) -> int | None:
    """Rows of the embedding that a node reads, where it is a constant matrix (behind Cast and the like)."""
    table = resolve(node.body, node.inputs[0], path, overridable=False)
    axis = node.integer("axis", node.integer("gather_axis", 0))
    if isinstance(table, NotConstant) or len(table.shape) < 2 or not -len(table.shape) <= axis < len(table.shape):
        return None
    return table.shape[axis]
