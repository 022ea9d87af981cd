"""Reading a model's inputs and outputs, and how many ids its embeddings know."""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto, TensorProto, TensorShapeProto, ValueInfoProto

from onnxfq.graph.bodies import Body, Node
from onnxfq.graph.constants import NotConstant, resolve
from onnxfq.graph.tensors import type_name
from onnxfq.signature import Dimension, Signature, TensorSpec

# Operators through which token ids pass unchanged on their way to the embedding.
_PASSING = frozenset(
    {"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Slice", "Expand", "Concat"}
)
_EMBEDDINGS = frozenset({"Gather", "GatherBlockQuantized"})
_INTEGERS = (TensorProto.INT32, TensorProto.INT64)


def read_signature(model: ModelProto, bodies: list[Body], path: Path) -> Signature:
    """The inputs that callers must feed (those without a default) and the outputs."""
    main = bodies[0]
    inputs = [_spec(i, bodies, path) for i in model.graph.input if i.name not in main.initializers]
    return Signature(tuple(inputs), tuple(_spec(o, [], path) for o in model.graph.output))


def _spec(info: ValueInfoProto, bodies: list[Body], path: Path) -> TensorSpec:
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        return TensorSpec(info.name, (kind or "unknown").removesuffix("_type"), None)
    tensor = info.type.tensor_type
    shape = tuple(_dimension(d) for d in tensor.shape.dim) if tensor.HasField("shape") else None
    vocabulary = _vocabulary(info.name, bodies, path) if tensor.elem_type in _INTEGERS else None
    return TensorSpec(info.name, type_name(tensor.elem_type), shape, vocabulary)


def _dimension(dim: TensorShapeProto.Dimension) -> Dimension:
    kind = dim.WhichOneof("value")
    if kind is None:
        return None
    return int(dim.dim_value) if kind == "dim_value" else str(dim.dim_param)


def _vocabulary(name: str, bodies: list[Body], path: Path) -> int | None:
    """Rows of the smallest embedding that the input indexes, in whatever scope."""
    reached, rows = {name}, []
    for body in bodies:
        if body.is_function:
            continue
        for proto in body.proto.node:
            node = Node(proto, body)
            sources = node.inputs if node.op_type == "Concat" else node.inputs[:1]
            if node.op_type in _PASSING and reached.intersection(sources):
                reached.update(node.outputs)
            elif node.op_type in _EMBEDDINGS and len(node.inputs) > 1 and node.inputs[1] in reached:
                size = _rows(node, path)
                rows += [size] if size else []
    return min(rows, default=None)


def _rows(node: Node, path: Path) -> int | None:
    """Rows of the embedding that a node reads, where it is a constant matrix (behind Cast and the like)."""
    table = resolve(node.body, node.inputs[0], path, overridable=False)
    axis = node.integer("axis", node.integer("gather_axis", 0))
    if isinstance(table, NotConstant) or len(table.shape) < 2 or not -len(table.shape) <= axis < len(table.shape):
        return None
    return table.shape[axis]
