"""Writing a model: unchanged tensors go from file to file, new ones come from the spool, nothing large is parsed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from onnx import GraphProto, ModelProto, TensorProto

from onnxfq.errors import ModelError
from onnxfq.graph.bodies import Body, bodies
from onnxfq.graph.files import FileSlice, copy_bytes, write_all
from onnxfq.graph.model import Graph, new_slice
from onnxfq.graph.spool import Spool
from onnxfq.graph.tensors import NEW, Tensor, describe, refer
from onnxfq.graph.wire import LIFT_BYTES, field_header, raw_data_header

EXTERNAL_FROM_BYTES = 1 << 30
_LARGEST_MESSAGE = (1 << 31) - 1
_MODEL_GRAPH, _GRAPH_INITIALIZER = 7, 5


def save(graph: Graph, out: Path, spool: Spool) -> list[Path]:
    """Write the model, and its data file where it has one.

    Args:
        graph: the finished graph.
        out: the file to create; data go to `out` + ".data".
        spool: new tensors. Moved to become the data file if there is one.

    Returns:
        The files written.

    Raises:
        ModelError: a source file changed or shrank, or the message would exceed protobuf's 2 GiB.
        OSError: the files cannot be written.
    """
    graph.check()
    if graph.uses_external_data or _data_bytes(graph) >= EXTERNAL_FROM_BYTES:
        return _save_external(graph, out, spool)
    return _save_inline(graph, out, spool)


def _data_bytes(graph: Graph) -> int:
    return sum(describe(t, graph.path).nbytes for body in graph.bodies for t in body.initializers.values())


def _save_external(graph: Graph, out: Path, spool: Spool) -> list[Path]:
    data = out.with_name(out.name + ".data")
    copy = ModelProto()
    copy.CopyFrom(graph.model)
    scopes = bodies(copy)
    for tensor, proto in _initializers(scopes, graph.path):
        if tensor.piece is not None and str(tensor.piece.path) == NEW:
            piece = new_slice(proto, spool.path)
        elif tensor.piece is not None:
            piece = spool.append_slice(tensor.piece)
        elif tensor.nbytes >= LIFT_BYTES and proto.data_type != TensorProto.STRING:
            piece = spool.append(tensor.read())
        else:
            continue
        refer(proto, data.name, piece.offset, piece.length)
    _embed_attributes(scopes, graph.path, spool)
    message = _serialize(copy, out)
    spool.path.rename(data)
    _write(out, [message])
    return [out, data] if spool.length else [out]


def _initializers(scopes: list[Body], model: Path) -> Iterator[tuple[Tensor, TensorProto]]:
    for body in scopes:
        for proto in body.initializers.values():
            yield describe(proto, model), proto


def _save_inline(graph: Graph, out: Path, spool: Spool) -> list[Path]:
    copy = ModelProto()
    copy.CopyFrom(graph.model)
    scopes = bodies(copy)
    _embed_attributes(scopes, graph.path, spool)
    for body in scopes[1:]:
        for proto in body.initializers.values():
            _embed(proto, graph.path, spool)
    headers, slices = [], []
    for index in range(len(copy.graph.initializer) - 1, -1, -1):
        proto = copy.graph.initializer[index]
        if proto.data_location != TensorProto.EXTERNAL:
            continue
        slices.append(_slice(proto, graph.path, spool))
        header = TensorProto()
        header.CopyFrom(proto)
        header.ClearField("external_data")
        header.ClearField("data_location")
        headers.append(header.SerializeToString(deterministic=True))
        del copy.graph.initializer[index]
    _write(out, _splice(copy, list(zip(headers[::-1], slices[::-1], strict=True)), out))
    spool.path.unlink()
    return [out]


def _splice(model: ModelProto, tensors: list[tuple[bytes, FileSlice]], out: Path) -> list[bytes | FileSlice]:
    """The pieces of the file: the message without its graph, the graph, and its large tensors one by one."""
    graph = GraphProto()
    graph.CopyFrom(model.graph)
    model.ClearField("graph")
    graph_bytes = _serialize(graph, out)
    pieces: list[bytes | FileSlice] = [graph_bytes]
    length = len(graph_bytes)
    for header, piece in tensors:
        raw = raw_data_header(piece.length)
        body = len(header) + len(raw) + piece.length
        start = field_header(_GRAPH_INITIALIZER, body) + header + raw
        pieces += [start, piece]
        length += len(start) + piece.length
    head = _serialize(model, out) + field_header(_MODEL_GRAPH, length)
    if len(head) + length > _LARGEST_MESSAGE:
        raise ModelError(f"'{out}' would exceed 2 GiB, protobuf's limit.")
    return [head, *pieces]


def _serialize(message: ModelProto | GraphProto, out: Path) -> bytes:
    try:
        return bytes(message.SerializeToString(deterministic=True))
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"'{out}' would exceed 2 GiB outside its initializers, protobuf's limit ({error}).") from error


def _slice(proto: TensorProto, model: Path, spool: Spool) -> FileSlice:
    piece = describe(proto, model).piece
    if piece is None:
        raise ModelError(f"Tensor '{proto.name}' has no data.")
    return new_slice(proto, spool.path) if str(piece.path) == NEW else piece


def _embed_attributes(scopes: list[Body], model: Path, spool: Spool) -> None:
    """Tensors in attributes (Constant nodes) are always inline: put their bytes back."""
    for body in scopes:
        for node in body.proto.node:
            for attribute in node.attribute:
                for tensor in (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors):
                    _embed(tensor, model, spool)


def _embed(proto: TensorProto, model: Path, spool: Spool) -> None:
    if proto.data_location != TensorProto.EXTERNAL:
        return
    data = bytes(_slice(proto, model, spool).read()) if describe(proto, model).nbytes else b""
    proto.ClearField("external_data")
    proto.ClearField("data_location")
    proto.raw_data = data


def _write(out: Path, pieces: list[bytes] | list[bytes | FileSlice]) -> None:
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        for piece in pieces:
            if isinstance(piece, FileSlice):
                copy_bytes(piece, descriptor)
            else:
                write_all(descriptor, piece)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
