"""Damaged models give one clear error, whatever the damage."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import pytest

from onnxfq.errors import ModelError
from onnxfq.graph import Graph, wire
from onnxfq.rules import unfit_weights
from support import models
from support.models import constant, grid, model
from support.planned import targets_of

TINY = """
    t = Transpose <perm = [1, 0]> (s)
    shape = Constant <value_ints = [-1, 4]> ()
    r = Reshape (v, shape)
    a = MatMul (x, t)
    z = If (c) <
        then_branch = yes () => (float[M, 4] u) { u = MatMul (a, r) },
        else_branch = no () => (float[M, 4] u2) { u2 = Gemm <alpha = 0.5, transB = 1> (a, q, bias) }
    >
    y = Relu (z)
"""


def tiny(folder: Path) -> bytes:
    """A model of 1 kB that uses most of what is read: chains, subgraphs, external and typed data."""
    square = grid(4, 4)
    proto = model(
        TINY,
        x="float[M, 4] x, bool c",
        y="float[M, 4] y",
        s=square,
        v=square,
        q=square,
        bias=np.ones(4, np.float32),
        elsewhere=np.zeros(16, np.float32),
    )
    models.refer(proto.graph.initializer[-1], "data.bin", 0, 64)
    proto.graph.initializer.append(models.typed(np.arange(5, dtype=np.float16), "half"))
    (folder / "data.bin").write_bytes(bytes(64))
    return bytes(proto.SerializeToString())


def examine(path: Path) -> int:
    """Load a file and look at all of it; returns the number of targets."""
    graph = Graph.load(path)
    assert graph.signature.inputs is not None
    targets = targets_of(graph)
    for target in targets:
        target.load()
    return len(targets)


@pytest.fixture(params=[32, 4096], ids=["lifted", "inline"])
def threshold(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors count as large, or not; every weight is worth it."""
    monkeypatch.setattr(wire, "LIFT_BYTES", request.param)
    monkeypatch.setattr(unfit_weights, "SMALLEST_WEIGHT", 1)


@pytest.mark.usefixtures("threshold")
def test_the_undamaged_model(tmp_path: Path) -> None:
    path = tmp_path / "in.onnx"
    path.write_bytes(tiny(tmp_path))
    assert examine(path) == 3


@pytest.mark.usefixtures("threshold")
def test_every_truncation(tmp_path: Path) -> None:
    whole, path = tiny(tmp_path), tmp_path / "in.onnx"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError):
            examine(path)


def damaged(data: bytes, chance: random.Random) -> bytes:
    """A few random changes: flipped bits, other bytes, some cut out, some repeated."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 5, 20))):
        at, kind = chance.randrange(len(changed)), chance.random()
        if kind < 0.5:
            changed[at] ^= 1 << chance.randrange(8)
        elif kind < 0.7:
            changed[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind < 0.85:
            del changed[at : at + chance.randrange(1, 9)]
        else:
            origin = chance.randrange(len(changed))
            changed[at:at] = changed[origin : origin + chance.randrange(1, 60)]
    return bytes(changed)


@pytest.mark.usefixtures("threshold")
def test_random_damage(tmp_path: Path) -> None:
    whole, path, chance = tiny(tmp_path), tmp_path / "in.onnx", random.Random(7)
    refused = 0
    for _ in range(600):
        path.write_bytes(damaged(whole, chance))
        try:
            examine(path)
        except ModelError:
            refused += 1
    assert 300 < refused < 600


def simple() -> onnx.ModelProto:
    return model("y = MatMul (x, w)", w=grid())


def weight(proto: onnx.ModelProto) -> onnx.TensorProto:
    found: onnx.TensorProto = proto.graph.initializer[0]
    return found


def set_dims(*dims: int) -> Callable[[onnx.ModelProto], None]:
    def change(proto: onnx.ModelProto) -> None:
        weight(proto).dims[:] = dims

    return change


def twice(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(proto.graph.node[0])


def initializer_twice(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(weight(proto))


def node_that_makes_the_weight(proto: onnx.ModelProto) -> None:
    proto.graph.node.insert(0, constant(grid(), "w"))


def circle(proto: onnx.ModelProto) -> None:
    del proto.graph.initializer[:]
    proto.graph.node.insert(0, onnx.helper.make_node("Transpose", ["v"], ["w"]))
    proto.graph.node.insert(0, onnx.helper.make_node("Transpose", ["w"], ["v"]))


def few_values(proto: onnx.ModelProto) -> None:
    weight(proto).CopyFrom(models.typed(grid(), "w"))
    weight(proto).float_data.pop()


def no_values(proto: onnx.ModelProto) -> None:
    weight(proto).ClearField("raw_data")


def few_bytes(proto: onnx.ModelProto) -> None:
    weight(proto).raw_data = weight(proto).raw_data[:-1]


def unknown_type(proto: onnx.ModelProto) -> None:
    weight(proto).data_type = 99


def unknown_operator(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].op_type = "MatrixMultiplication"


def undeclared_domain(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].domain = "elsewhere"


def one_input(proto: onnx.ModelProto) -> None:
    del proto.graph.node[0].input[1]


def no_such_input(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].input[1] = "missing"


def no_nodes(proto: onnx.ModelProto) -> None:
    del proto.graph.node[:]


def no_graph(proto: onnx.ModelProto) -> None:
    proto.ClearField("graph")


def no_operator_sets(proto: onnx.ModelProto) -> None:
    del proto.opset_import[:]


def oldest_ir(proto: onnx.ModelProto) -> None:
    proto.ir_version = 2
    del proto.opset_import[:]


def newer_ir(proto: onnx.ModelProto) -> None:
    proto.ir_version = 10000


def strings(proto: onnx.ModelProto) -> None:
    weight(proto).data_type = onnx.TensorProto.STRING


DAMAGES: dict[Callable[[onnx.ModelProto], None], str] = {
    set_dims(-1, 32): "impossible shape",
    set_dims(2**62, 2**62): "impossible shape",
    set_dims(2**31, 2**31): "impossible shape",
    set_dims(64, 33): "declares a shape",
    set_dims(64): "declares a shape",
    few_values: "2048 values, but 2047 values of data",
    no_values: "values, but 0 values of data",
    few_bytes: "of 8192 bytes, but 8191 bytes of data",
    twice: "'y' has been used as output names multiple times",
    initializer_twice: "w initializer name is not unique",
    node_that_makes_the_weight: "(?i)SSA|multiple times|defined twice",
    circle: "topologically sorted",
    unknown_type: "Unrecognized data_type",
    unknown_operator: "No Op registered for MatrixMultiplication",
    undeclared_domain: "No opset import for domain",
    one_input: "input size 1 not in range",
    no_such_input: "input 'missing' of node",
    no_nodes: "no graph with nodes",
    no_graph: "no graph with nodes",
    no_operator_sets: "must specify opset_import",
    oldest_ir: "IR version 2, from before operators had versions",
    newer_ir: "ir_version 10000 is higher",
    strings: "strings as external data",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
def test_models_that_break_the_rules(damage: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    proto = simple()
    damage(proto)
    path = models.write(proto, tmp_path / "in.onnx")
    with pytest.raises(ModelError, match=DAMAGES[damage]) as caught:
        models.quantized_by_rtn(path)
    assert "\n" not in str(caught.value)
    assert sorted(models.hashes(tmp_path)) == ["in.onnx"]


def test_names_that_are_not_text(tmp_path: Path) -> None:
    data = simple().SerializeToString().replace(b"\x01w", b"\x01\xff")
    (tmp_path / "in.onnx").write_bytes(data)
    with pytest.raises(ModelError, match=r"the name b'\\xff' is not UTF-8"):
        Graph.load(tmp_path / "in.onnx")


def test_documentation_that_is_not_text_survives(tmp_path: Path) -> None:
    proto = simple()
    proto.doc_string = proto.graph.doc_string = proto.graph.node[0].doc_string = "XXXX"
    proto.metadata_props.add(key="XXXX", value="XXXX")
    proto.graph.node[0].metadata_props.add(key="k", value="XXXX")
    (tmp_path / "in.onnx").write_bytes(proto.SerializeToString().replace(b"XXXX", b"caf\xe9"))
    models.quantized_by_rtn(tmp_path / "in.onnx")
    assert (tmp_path / "out.onnx").read_bytes().count(b"caf\xe9") == 6


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(value: float, tmp_path: Path) -> None:
    w = grid()
    w[3, 4] = value
    proto = model("a = MatMul (x, w)  b = MatMul (x, u)  c = MatMul (x, v)  y = Sum (a, b, c)", w=w, u=grid(), v=w)
    with pytest.raises(ModelError, match=r"NaN or infinite values in 2 weights of .*in\.onnx': 'w', 'v'"):
        models.quantized_by_rtn(models.write(proto, tmp_path / "in.onnx"))
    assert sorted(models.hashes(tmp_path)) == ["in.onnx"]


def test_paths_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        Graph.load(tmp_path / "missing.onnx")
    with pytest.raises(ModelError, match="is not a file"):
        Graph.load(tmp_path)
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(ModelError, match="is empty"):
        Graph.load(tmp_path / "empty.onnx")
    with pytest.raises(ModelError, match="is not a file"):
        Graph.load(Path("/dev/null"))
    (tmp_path / "loop.onnx").symlink_to("loop.onnx")
    with pytest.raises(ModelError, match="Cannot read"):
        Graph.load(tmp_path / "loop.onnx")
    with pytest.raises(ModelError, match=r"No such file|Cannot read"):
        Graph.load(tmp_path / "empty.onnx" / "below.onnx")
    with pytest.raises(ModelError):
        Graph.load(Path("nul\0.onnx"))
