"""Whether a model can be worked with at all: its names are text, ONNX's checker takes it, its functions end."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from google.protobuf.message import Message  # type: ignore[import-untyped,unused-ignore]
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto

from onnxfq.errors import ModelError
from onnxfq.graph.bodies import Body, bodies
from onnxfq.graph.external_data import FileSlice
from onnxfq.graph.iter_tensors import iter_tensors

_PROSE = frozenset({"doc_string", "metadata_props", "producer_name", "producer_version"})  # copied, never looked into
# What ONNX Runtime has added to ONNX's own domain and model builders and optimizers write, and the version of the
# operator set from which ONNX knows it.
_RUNTIME_OPERATORS = {"SimplifiedLayerNormalization": 1 << 30, "LayerNormalization": 17}
_UNCHECKED = "unchecked"  # a domain of which the checker knows that it knows nothing
MOST_NODES = 1_000_000  # ONNX Runtime writes all functions out when it loads a model
_DEEPEST = 500  # calls within calls
_MOST_OVERLAP = 4  # times the size of a file that its tensors may have together; those that share all bytes count once

_Key = tuple[str, str, str]


def garbled(message: Message) -> str | None:
    """The first name in a message that is not UTF-8, as people can read it; None where all are.

    protobuf lets such strings pass, as bytes.
    """
    for field, value in message.ListFields():
        if field.name in _PROSE or field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
            continue
        for item in (value,) if isinstance(value, (str, bytes, Message)) else value:
            if isinstance(item, bytes):
                return repr(item)
            if isinstance(item, Message) and (found := garbled(item)):
                return found
    return None


def checker_copy(model: ModelProto) -> ModelProto:
    """Copy the model with empty tensors (shape [0]) in place of those that are stored in files.

    ONNX Runtime's additions to ONNX's own domain get another domain in the copy, where the checker lets them be. Inputs
    and outputs of unknown rank get a shape: exporters leave it out, and the checker alone insists on it.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    for info in (*copy.graph.input, *copy.graph.output):
        if info.type.HasField("tensor_type"):
            info.type.tensor_type.shape.SetInParent()
    for held in iter_tensors(copy):
        if held.proto.data_location == TensorProto.EXTERNAL:
            held.proto.CopyFrom(TensorProto(name=held.proto.name, data_type=held.proto.data_type, dims=[0]))
    version = max((known.version for known in copy.opset_import if not known.domain), default=0)
    added = [
        node
        for body in bodies(copy)
        for node in body.proto.node
        if not node.domain and version < _RUNTIME_OPERATORS.get(node.op_type, 0)
    ]
    for node in added:
        node.domain = _UNCHECKED
    for holder in (copy, *copy.functions) if added else ():
        holder.opset_import.add(domain=_UNCHECKED, version=1)
    return copy


def check_calls(model: ModelProto, scopes: list[Body], path: Path) -> None:
    """Refuse functions that call themselves, and those that call each other so often that no runtime can load them.

    Args:
        model: the model.
        scopes: all of its graphs and functions.
        path: for messages.

    Raises:
        ModelError: there are such functions.
    """
    if not model.functions:
        return
    known = {_key(function) for function in model.functions}
    own: Counter[Body] = Counter()
    calls: defaultdict[Body, Counter[_Key]] = defaultdict(Counter)
    for body in scopes:
        own[body.root] += len(body.proto.node)
        calls[body.root].update(key for node in body.proto.node if (key := _key(node)) in known)
    homes = {_key(body.proto): body for body in scopes if isinstance(body.proto, FunctionProto)}
    size, depth = dict[_Key, int](), dict[_Key, int]()
    for key in _order({key: calls[home] for key, home in homes.items()}, path):
        inner = calls[homes[key]]
        size[key] = min(MOST_NODES + 1, own[homes[key]] + sum(n * size[other] for other, n in inner.items()))
        depth[key] = 1 + max((depth[other] for other in inner), default=0)
    called = calls[scopes[0]]
    total = own[scopes[0]] + sum(n * size[other] for other, n in called.items())
    if total > MOST_NODES or any(depth[other] > _DEEPEST for other in called):
        raise ModelError(
            f"'{path}' calls functions within functions so often that no runtime can load it: more than {MOST_NODES} "
            f"nodes, or {_DEEPEST} calls deep."
        )


def _order(calls: Mapping[_Key, Iterable[_Key]], path: Path) -> list[_Key]:
    """Functions, each behind those that it calls."""
    try:
        return list(TopologicalSorter(calls).static_order())
    except CycleError as error:
        names = " → ".join(f"{domain}:{name}" for domain, name, _ in error.args[1][:4])
        raise ModelError(f"'{path}' has functions that call themselves ({names}), which ONNX forbids.") from error


def _key(item: FunctionProto | NodeProto) -> _Key:
    name = item.name if isinstance(item, FunctionProto) else item.op_type
    return str(item.domain), str(name), str(getattr(item, "overload", ""))


def refuse_overlaps(file: Path, size: int, pieces: Iterable[FileSlice]) -> None:
    """Refuse tensors that share bytes without being the same: a small file would become a result of any size.

    Raises:
        ModelError: they declare many times the bytes of the file.
    """
    total = sum(piece.length for piece in pieces)
    if total > _MOST_OVERLAP * size:
        raise ModelError(
            f"Tensors overlap in '{file}': together they declare {total} bytes, the file has {size}. The model is "
            "damaged."
        )
