"""Writing a model: unchanged tensors go from file to file, new ones come from the tensor file; none is parsed."""

from __future__ import annotations

import os
from pathlib import Path

from onnx import GraphProto, ModelProto, TensorProto

from onnxfq.errors import ModelError
from onnxfq.graph.external_data import FileSlice, copy_bytes, create, write_all
from onnxfq.graph.iter_tensors import iter_tensors
from onnxfq.graph.model import Graph
from onnxfq.graph.tensor_file import TensorFile
from onnxfq.graph.tensors import NEW, NUMPY_TYPES, Tensor, clear_values, embed, read_header, refer
from onnxfq.graph.wire import LIFT_BYTES, field_header, raw_data_header

EXTERNAL_FROM_BYTES = 1 << 30
_LARGEST_MESSAGE = (1 << 31) - 1
_MODEL_GRAPH, _GRAPH_INITIALIZER = 7, 5


def save(graph: Graph, out: Path, tensor_file: TensorFile, data_suffix: str = ".data") -> list[Path]:
    """Write the model, and its data file where it has one.

    Args:
        graph: the finished graph.
        out: the file to create.
        tensor_file: new tensors. Moved to become the data file if there is one.
        data_suffix: of the data file, behind the name of `out`.

    Returns:
        The files written.

    Raises:
        ModelError: a source file changed or shrank, or the message would exceed protobuf's 2 GiB.
        OSError: the files cannot be written.
    """
    graph.check()
    tensor_file.flush()
    copy = ModelProto()
    copy.CopyFrom(graph.model)
    if graph.uses_external_data or _data_bytes(graph) >= EXTERNAL_FROM_BYTES:
        return _save_external(graph, copy, out, tensor_file, data_suffix)
    return _save_inline(graph, copy, out, tensor_file)


def _data_bytes(graph: Graph) -> int:
    return sum(read_header(h.proto, graph.path).nbytes for h in iter_tensors(graph.model) if h.initializer)


def _save_external(graph: Graph, copy: ModelProto, out: Path, tensor_file: TensorFile, data_suffix: str) -> list[Path]:
    data = out.with_name(out.name + data_suffix)
    outside: list[tuple[FileSlice, TensorProto]] = []
    inside: list[Tensor] = []
    for held in iter_tensors(copy):
        tensor = read_header(held.proto, graph.path, held.label)
        if tensor.piece is None:
            inside += [tensor] if held.initializer and _movable(tensor) else []
        elif not held.initializer:
            _embed(held.proto, graph.path, tensor_file)
        elif _is_new(tensor.piece):
            refer(held.proto, data.name, tensor.piece.offset, tensor.piece.length)
        else:
            outside.append((tensor.piece, held.proto))
    # In the order of the source, so that what was written once is written the same again.
    for piece, proto in sorted(outside, key=lambda pair: (graph.files.index(pair[0].path), pair[0].offset)):
        copied = tensor_file.append_slice(piece)
        refer(proto, data.name, copied.offset, copied.length)
    for tensor in inside:
        added = tensor_file.append(tensor.read())
        refer(tensor.proto, data.name, added.offset, added.length)
    _write(out, _splice(copy, [], out))
    tensor_file.flush()
    if not tensor_file.length:
        tensor_file.path.unlink()
        return [out]
    tensor_file.path.rename(data)
    return [out, data]


def _movable(tensor: Tensor) -> bool:
    """Whether an inline tensor is large, and numpy's bytes are its bytes as stored raw."""
    return tensor.nbytes >= LIFT_BYTES and tensor.type in NUMPY_TYPES


def _save_inline(graph: Graph, copy: ModelProto, out: Path, tensor_file: TensorFile) -> list[Path]:
    for held in iter_tensors(copy):
        if not held.main and held.proto.data_location == TensorProto.EXTERNAL:
            _embed(held.proto, graph.path, tensor_file)
    large: list[tuple[bytes, FileSlice]] = []
    for index in range(len(copy.graph.initializer) - 1, -1, -1):
        proto = copy.graph.initializer[index]
        if proto.data_location == TensorProto.EXTERNAL:
            piece = _slice(proto, graph.path, tensor_file)
            clear_values(proto)
            large.append((proto.SerializeToString(deterministic=True), piece))
            del copy.graph.initializer[index]
    _write(out, _splice(copy, large[::-1], out))
    tensor_file.path.unlink()
    return [out]


def _splice(model: ModelProto, tensors: list[tuple[bytes, FileSlice]], out: Path) -> list[bytes | FileSlice]:
    """The pieces of the file: the message without its graph, the graph, and its large tensors one by one.

    Both kinds of file are laid out like this, so that one which is read and written again stays as it is.
    """
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


def _slice(proto: TensorProto, model: Path, tensor_file: TensorFile) -> FileSlice:
    """Where the bytes of a tensor that lies in a file are."""
    piece = read_header(proto, model).piece
    if piece is None:
        raise ModelError(f"Tensor '{proto.name}' has no data.")
    return FileSlice(tensor_file.path, piece.offset, piece.length) if _is_new(piece) else piece


def _is_new(piece: FileSlice) -> bool:
    return str(piece.path) == NEW


def _embed(proto: TensorProto, model: Path, tensor_file: TensorFile) -> None:
    """Put the bytes back into the message."""
    embed(proto, bytes(_slice(proto, model, tensor_file).read()))


def _write(out: Path, pieces: list[bytes] | list[bytes | FileSlice]) -> None:
    descriptor = create(out)
    try:
        for piece in pieces:
            if isinstance(piece, FileSlice):
                copy_bytes(piece, descriptor)
            else:
                write_all(descriptor, piece)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
