"""Reading everything of a file but its large tensors."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxfq.errors import ModelError
from onnxfq.graph import Graph, wire
from onnxfq.graph.iter_tensors import iter_tensors
from onnxfq.graph.wire import SELF, field_header, lift, raw_data_header, varint
from support import models
from support.models import grid, model

LARGE = 5000
FIELDS = st.sampled_from(("raw", "typed", "external"))


@st.composite
def tensor_protos(draw: st.DrawFn) -> onnx.TensorProto:
    """Tensors of sizes around the threshold, in every kind of storage, their fields in any order."""
    size = draw(st.sampled_from((0, 1, 100, 4095, 4096, 4097, LARGE)))
    proto = onnx.TensorProto(name=draw(st.text(max_size=5)), data_type=onnx.TensorProto.UINT8, dims=[size])
    kind = draw(FIELDS)
    if kind == "raw":
        proto.raw_data = draw(st.binary(min_size=1, max_size=3)) * size if size else b""
        proto.raw_data = proto.raw_data[:size]
    elif kind == "typed":
        proto.int32_data.extend([draw(st.integers(0, 255))] * size)
    else:
        models.refer(proto, "file.bin", 0, size)
    proto.doc_string = draw(st.text(max_size=3))
    return proto


@st.composite
def graph_protos(draw: st.DrawFn, depth: int = 2) -> onnx.GraphProto:
    """Graphs with tensors in initializers and attributes, and graphs in attributes."""
    graph = onnx.GraphProto(name="g", initializer=draw(st.lists(tensor_protos(), max_size=2)))
    for _ in range(draw(st.integers(0, 2))):
        node = graph.node.add(op_type="Op", doc_string=draw(st.sampled_from(("", "long" * 2000))))
        kind = draw(st.sampled_from(("t", "tensors", "g", "graphs", "ints", "s")))
        attribute = node.attribute.add(name=kind)
        if kind == "t":
            attribute.t.CopyFrom(draw(tensor_protos()))
        elif kind == "tensors":
            attribute.tensors.extend(draw(st.lists(tensor_protos(), max_size=2)))
        elif kind == "g" and depth:
            attribute.g.CopyFrom(draw(graph_protos(depth - 1)))
        elif kind == "graphs" and depth:
            attribute.graphs.append(draw(graph_protos(depth - 1)))
        elif kind == "ints":
            attribute.ints.extend(range(draw(st.integers(0, 3000))))
        else:
            attribute.s = bytes(draw(st.integers(0, 5000)))
    return graph


@st.composite
def model_protos(draw: st.DrawFn) -> onnx.ModelProto:
    proto = onnx.ModelProto(ir_version=9, graph=draw(graph_protos()), producer_name=draw(st.text(max_size=3)))
    if draw(st.booleans()):
        function = proto.functions.add(name="f")
        function.node.extend(draw(graph_protos()).node)
    if draw(st.booleans()):
        proto.training_info.add(algorithm=draw(graph_protos()))
    return proto


def lifted(data: bytes) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(lift(memoryview(data), "file"))


def references(proto: onnx.ModelProto) -> Iterator[tuple[onnx.TensorProto, int, int]]:
    """Tensors that were lifted, with offset and length."""
    for held in iter_tensors(proto):
        entries = {e.key: e.value for e in held.proto.external_data}
        if entries.get("location") == SELF:
            yield held.proto, int(entries["offset"]), int(entries["length"])


def restore(proto: onnx.ModelProto, data: bytes) -> int:
    """Put the bytes of lifted tensors back; returns how many there were."""
    found = list(references(proto))
    for tensor, offset, length in found:
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.raw_data = data[offset : offset + length]
    return len(found)


@given(model_protos())
def test_lifting_and_restoring_is_nothing_at_all(proto: onnx.ModelProto) -> None:
    data = proto.SerializeToString()
    skeleton = lifted(data)
    large = [h for h in iter_tensors(proto) if len(h.proto.raw_data) >= wire.LIFT_BYTES]
    assert restore(skeleton, data) == len(large)
    assert skeleton == proto


@given(model_protos())
def test_no_large_bytes_are_left(proto: onnx.ModelProto) -> None:
    skeleton = lifted(proto.SerializeToString())
    assert all(len(h.proto.raw_data) < wire.LIFT_BYTES for h in iter_tensors(skeleton))


@given(st.integers(0, 2**64 - 1))
def test_varints(value: int) -> None:
    assert wire._Reader(memoryview(varint(value)), "").varint(0, 10) == (value, len(varint(value)))


def message(number: int, body: bytes) -> bytes:
    return field_header(number, len(body)) + body


def in_model(tensor: bytes) -> bytes:
    """A model whose graph holds one tensor, given as bytes."""
    return message(7, message(5, tensor))


def tensor_bytes(*raws: bytes) -> bytes:
    """A tensor with raw_data any number of times."""
    head = onnx.TensorProto(name="t", data_type=onnx.TensorProto.UINT8, dims=[len(raws[-1])])
    return bytes(head.SerializeToString()) + b"".join(raw_data_header(len(raw)) + raw for raw in raws)


@pytest.mark.parametrize(
    "raws",
    [(b"a" * LARGE, b"b" * LARGE), (b"a" * LARGE, b"b" * 9), (b"a" * 9, b"b" * LARGE), (b"a" * 9, b"b" * 8)],
    ids=["large, large", "large, small", "small, large", "small, small"],
)
def test_of_raw_data_that_appears_twice_the_last_counts(raws: tuple[bytes, bytes]) -> None:
    data = in_model(tensor_bytes(*raws))
    skeleton = lifted(data)
    restore(skeleton, data)
    assert skeleton == onnx.ModelProto.FromString(data)
    assert skeleton.graph.initializer[0].raw_data == raws[1]


def test_a_graph_that_comes_in_two_parts_is_one() -> None:
    data = in_model(tensor_bytes(b"a" * LARGE)) + in_model(tensor_bytes(b"b" * LARGE))
    skeleton = lifted(data)
    restore(skeleton, data)
    assert [t.raw_data[:1] for t in skeleton.graph.initializer] == [b"a", b"b"]
    assert skeleton == onnx.ModelProto.FromString(data)


def test_an_attributes_tensor_in_two_parts_is_refused_where_it_is_ambiguous(tmp_path: Path) -> None:
    """Protobuf merges the parts: the second's small bytes win over the first's large ones."""
    proto = model("p = MatMul (x, w)  y = Add (p, c)", w=grid())
    node = models.constant(np.zeros((1, 32), np.float32), "c")
    first, second = tensor_bytes(b"a" * LARGE), tensor_bytes(b"b" * 128)
    attribute = onnx.AttributeProto(name="value", type=onnx.AttributeProto.TENSOR).SerializeToString()
    node.ClearField("attribute")
    body = node.SerializeToString() + message(5, attribute + message(5, first) + message(5, second))
    (tmp_path / "in.onnx").write_bytes(proto.SerializeToString() + message(7, message(1, body)))
    with pytest.raises(ModelError, match="both inline and as external data"):
        Graph.load(tmp_path / "in.onnx")


def test_large_inline_bytes_in_an_external_tensor_are_refused() -> None:
    tensor = tensor_bytes(b"a" * LARGE) + wire.reference("other.bin", 0, LARGE)
    with pytest.raises(ModelError, match="both inline and as external data"):
        lift(memoryview(in_model(tensor)), "file")


def test_a_file_cannot_pretend_to_be_lifted(tmp_path: Path) -> None:
    """Locations that only this program gives are refused when they come from a file."""
    proto = model("y = MatMul (x, w)", w=grid())
    for location in ("\0self", "\0new", "\0"):
        models.refer(proto.graph.initializer[0], location, 0, 8192)
        with pytest.raises(ModelError, match="leaves the model's folder"):
            Graph.load(models.write(proto, tmp_path / "in.onnx"))


def nested(levels: int) -> onnx.ModelProto:
    """A model of If in If in If, with 5 kB in the innermost."""
    graph = onnx.GraphProto(name="g")
    graph.initializer.append(models.tensor(np.zeros(LARGE, np.uint8), "t"))
    for _ in range(levels):
        outer = onnx.GraphProto(name="g")
        outer.node.add(op_type="If").attribute.add(name="a").g.CopyFrom(graph)
        graph = outer
    return onnx.ModelProto(ir_version=9, graph=graph)


def test_deep_nesting() -> None:
    data = nested(20).SerializeToString()
    skeleton = lifted(data)
    assert restore(skeleton, data) == 1


def test_nesting_beyond_protobufs_own_limit() -> None:
    body = b""
    for _ in range(200):
        body = message(1, message(5, message(6, body + bytes(8 if body else LARGE))))
    with pytest.raises(ModelError, match=r"nests subgraphs too deeply|not a whole ONNX model"):
        lift(memoryview(message(7, body)), "file")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xff" * 20, id="endless varint"),
        pytest.param(b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", id="length of 2⁶⁴"),
        pytest.param(b"\x3a\x80", id="length cut short"),
        pytest.param(b"\x00\x00", id="field number 0"),
        pytest.param(b"\x0b\x0c", id="groups"),
        pytest.param(b"\x0f", id="wire type 7"),
        pytest.param(b"\x39\x00", id="half a fixed64"),
        pytest.param(b"\x3d\x00", id="half a fixed32"),
        pytest.param(b"<html>not a model</html>", id="HTML"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", id="git LFS pointer"),
        pytest.param(b"PK\x03\x04" + bytes(30), id="zip"),
        pytest.param(struct.pack("<Q", 100) + b'{"a":1}' + bytes(100), id="safetensors"),
        pytest.param(bytes(5000), id="zeros"),
    ],
)
def test_what_is_no_model(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "in.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"in\.onnx"):
        Graph.load(path)
