"""Reading a model's inputs and outputs, and how many ids its embeddings know."""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto, TensorProto, ValueInfoProto

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


def _dimension(dim: object) -> Dimension:
    kind = dim.WhichOneof("value")  # type: ignore[attr-defined]
    return None if kind is None else getattr(dim, kind)  # type: ignore[no-any-return]


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
    home: Body | None = node.body
    while home is not None and node.inputs[0] not in home.initializers and node.inputs[0] not in home.producers:
        home = home.parent
    if home is None:
        return None
    tensor = home.initializers.get(node.inputs[0])
    axis = int(node.attributes.get("axis", node.attributes.get("gather_axis", 0)))
    if tensor is not None:
        return tensor.dims[axis] if -len(tensor.dims) <= axis < len(tensor.dims) and len(tensor.dims) > 1 else None
    return _computed_rows(home, node.inputs[0], axis, path)


def _computed_rows(home: Body, name: str, axis: int, path: Path) -> int | None:
    """Rows of an embedding that is a constant behind Cast and the like."""
    value = resolve(home, name, path, overridable=False)
    if isinstance(value, NotConstant) or not -len(value.shape) <= axis < len(value.shape) or len(value.shape) < 2:
        return None
    return value.shape[axis]
