"""Models made to keep a reader busy, fill its memory or mislead it; most were found by `tools/fuzz.py`."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxfq.errors import ModelError
from onnxfq.graph import Graph
from onnxfq.graph import model as graph_model
from onnxfq.graph.bodies import bodies
from onnxfq.pipeline import inspect
from support import models
from support.models import grid, model, proven, reasons

W = grid()


def refused(proto: onnx.ModelProto, folder: Path, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        inspect(models.write(proto, folder / "in.onnx"))


def test_shapes_made_of_shapes_made_of_shapes(tmp_path: Path) -> None:
    """Each node doubled the time it took to follow them."""
    chain = " ".join(f"a{i + 1} = Reshape (a{i}, a{i})" for i in range(60))
    proto = model(f"{chain} s = Reshape (dims, a60) t = Reshape (w, s) y = MatMul (x, t)", w=W,
                  a0=np.array([1]), dims=np.array([2048]))  # fmt: skip
    report = inspect(models.write(proto, tmp_path / "in.onnx"))
    assert reasons(report) == {"y": "no constant weight: Reshape before it cannot be followed"}


def test_some_shapes_made_of_shapes_are_followed(tmp_path: Path) -> None:
    body = "a = Identity (dims) b = Reshape (a, one) t = Reshape (w, b) y = MatMul (x, t)"
    flat = model(body, w=W.reshape(-1), dims=np.array([64, 32]), one=np.array([2]))
    proven(flat, tmp_path)


def test_a_weight_made_of_very_many_constants(tmp_path: Path) -> None:
    parts = {f"p{i}": W[i % 64 : i % 64 + 1] for i in range(300)}
    proto = model(f"w = Concat <axis = 0> ({', '.join(parts)}) y = MatMul (x, w)", x="float[M, 300] x", constants=parts)
    report = inspect(models.write(proto, tmp_path / "in.onnx"))
    assert reasons(report) == {"y": "no constant weight: both inputs are computed at run time"}


@pytest.mark.parametrize("dims", [[1] * 33 + [64, 32], [1 << 62] * 20_000])
def test_very_many_dimensions(dims: list[int], tmp_path: Path) -> None:
    proto = model("y = MatMul (x, w)", w=W)
    proto.graph.initializer[0].dims[:] = dims
    refused(proto, tmp_path, "dimensions, at most 32")


def test_very_many_dimensions_on_the_way(tmp_path: Path) -> None:
    chain = " ".join(f"w{i + 1} = Unsqueeze (w{i}, zero)" for i in range(40))
    proto = model(f"{chain} t = Transpose (w40) y = MatMul (x, t)", w0=W, zero=np.array([0]))
    report = inspect(models.write(proto, tmp_path / "in.onnx"))
    assert reasons(report) == {"y": "no constant weight: on the way it has 33 dimensions"}


def test_subgraphs_of_a_node_with_a_long_name() -> None:
    """Each scope had a label with the names of all nodes around it."""
    proto = model("y = MatMul (x, w)", w=W)
    node = proto.graph.node.add(op_type="If", name="n" * 1_000_000)
    node.attribute.add(name="many", type=onnx.AttributeProto.GRAPHS).graphs.extend([onnx.GraphProto()] * 1000)
    tracemalloc.start()
    found = bodies(proto)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 1001
    assert peak < 20_000_000
    assert found[1].label == f"many of If '{node.name}'"


def calling(calls: dict[str, list[str]]) -> onnx.ModelProto:
    """A model with functions that call others, by name; what is no function is an operator."""
    proto = model("a = local.f0 (x) y = MatMul (a, w)", domains=', "local" : 1', w=W)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    for name, inner in calls.items():
        nodes = [
            helper.make_node(f, ["a"], [f"b{i}"], domain="local" if f in calls else "") for i, f in enumerate(inner)
        ]
        proto.functions.append(helper.make_function("local", name, ["a"], ["b0"], nodes, imports))
    return proto


def test_functions_within_functions(tmp_path: Path) -> None:
    proven(calling({"f0": ["f1", "f1"], "f1": ["f2"], "f2": ["Relu"]}), tmp_path)


@pytest.mark.parametrize(
    ("calls", "match"),
    [
        ({"f0": ["f0"]}, "functions that call themselves"),
        ({"f0": ["f1"], "f1": ["f2"], "f2": ["f1"]}, "functions that call themselves"),
        ({f"f{i}": [f"f{i + 1}", f"f{i + 1}"] for i in range(40)} | {"f40": ["Relu"]}, "no runtime can load"),
        ({f"f{i}": [f"f{i + 1}"] for i in range(600)} | {"f600": ["Relu"]}, "no runtime can load"),
    ],
    ids=["itself", "each other", "wide", "deep"],
)
def test_functions_that_never_end(calls: dict[str, list[str]], match: str, tmp_path: Path) -> None:
    refused(calling(calls), tmp_path, match)


@pytest.mark.parametrize(("key", "value"), [("offset", "0"), ("location", "other.bin"), ("length", "1")])
def test_external_data_that_name_something_twice(key: str, value: str, tmp_path: Path) -> None:
    """Readers differ about which counts."""
    proto = model("y = MatMul (x, w)", w=W)
    models.refer(proto.graph.initializer[0], "w.bin", 0, W.nbytes)
    proto.graph.initializer[0].external_data.add(key=key, value=value)
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    refused(proto, tmp_path, "names something twice")


@pytest.mark.parametrize("offset", [" 0", "0 ", "+0", "1_6", "٠", "0x0", "1e1", "0\n"])
def test_numbers_that_readers_understand_differently(offset: str, tmp_path: Path) -> None:
    proto = model("y = MatMul (x, w)", w=W)
    models.refer(proto.graph.initializer[0], "w.bin", offset, W.nbytes)
    (tmp_path / "w.bin").write_bytes(W.tobytes() + bytes(16))
    refused(proto, tmp_path, "garbled offset")


def overlapping(step: int, count: int = 8) -> onnx.ModelProto:
    """A model of some weights, each so many bytes behind the one before."""
    products = " ".join(f"y{i} = MatMul (x, w{i})" for i in range(count))
    listed = ", ".join(f"y{i}" for i in range(count))
    proto = model(f"{products} y = Sum ({listed})", constants={f"w{i}": W for i in range(count)})
    for i, tensor in enumerate(proto.graph.initializer):
        models.refer(tensor, "w.bin", i * step, W.nbytes)
    return proto


def test_tensors_that_overlap_many_times(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(W.tobytes() + bytes(64))
    refused(overlapping(4), tmp_path, "Tensors overlap in .* together they declare 65536 bytes, the file has 8256")


def test_tensors_that_overlap_a_little(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(W.tobytes() * 4)
    proven(models.write(overlapping(W.nbytes // 4, 4), tmp_path / "in.onnx"), tmp_path, targets=4, tolerance=0.1)


def test_tensors_that_are_the_same_bytes_are_quantized_once(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    outcome = proven(models.write(overlapping(0), tmp_path / "in.onnx"), tmp_path, targets=8)
    assert [target.shares for target in outcome.report.targets] == ["", *["y0"] * 7]
    assert len([name for name in outcome.initializers if name.endswith("_Q4")]) == 1
    assert not [name for name in outcome.initializers if name in {f"w{i}" for i in range(8)}]


def test_embeddings_of_many_inputs(tmp_path: Path) -> None:
    """What each input indexes is found in one pass; too many at once count as none."""
    names = [f"i{n}" for n in range(20)]
    body = f"c = Concat <axis = 0> ({', '.join(names)}) j = Identity (i0) e = Gather (w, c) f = Gather (v, j) " \
           "y = MatMul (e, t)"  # fmt: skip
    x = ", ".join(f"int64[M] {name}" for name in names)
    proto = model(body, x=x, y="float[N, 64] y", w=W, v=grid(40, 32), t=grid(32, 64))
    signature = Graph.load(models.write(proto, tmp_path / "in.onnx")).signature
    assert [spec.vocabulary for spec in signature.inputs] == [40, *[None] * 19]


def test_attributes_with_very_many_values(tmp_path: Path) -> None:
    """Every reader of the weight read them anew."""
    products = " ".join(f"y{i} = MatMul (x, t)" for i in range(300))
    proto = model(f"t = Transpose (w) {products} y = Identity (y0)", w=W.T.copy())
    proto.graph.node[0].attribute.append(helper.make_attribute("perm", [1, 0] * 200_000))
    found = reasons(inspect(models.write(proto, tmp_path / "in.onnx")))
    assert set(found.values()) == {"no constant weight: Transpose before it cannot be followed"}


@pytest.mark.parametrize("field", ["node", "initializer", "value_info"])
def test_more_messages_than_any_model_has(field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bytes of a file are enough for one, which takes hundreds of bytes of memory."""
    monkeypatch.setattr(graph_model, "_MOST_MESSAGES", 1000)
    proto = model("y = MatMul (x, w)", w=W)
    items = getattr(proto.graph, field)
    items.extend([type(items.add())()] * 1001)
    refused(proto, tmp_path, "more than 1000 nodes, attributes and tensors")


@pytest.mark.parametrize("name", ["then_branch", "many"])
def test_more_graphs_than_any_model_has(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_model, "_MOST_MESSAGES", 1000)
    proto = model("y = MatMul (x, w)", w=W)
    for _ in range(60 if name == "then_branch" else 1):
        node = proto.graph.node.add(op_type="If")
        if name == "then_branch":
            node.attribute.add(name=name, type=onnx.AttributeProto.GRAPH).g.SetInParent()
        else:
            node.attribute.add(name=name, type=onnx.AttributeProto.GRAPHS).graphs.extend([onnx.GraphProto()] * 60)
    refused(proto, tmp_path, "more than 1000 nodes, attributes and tensors")


@pytest.mark.parametrize("first", ["value", "value_ints"])
def test_constants_that_hold_two_values(first: str, tmp_path: Path) -> None:
    """ONNX Runtime takes the first, other readers the one of the name they look for first."""
    shapes = {"value": models.tensor(np.array([32, 64]), "t"), "value_ints": [64, 32]}
    proto = model("r = Reshape (v, c) y = MatMul (x, r)", v=W.reshape(-1))
    node = helper.make_node("Constant", [], ["c"], **{first: shapes.pop(first)})
    node.attribute.extend(helper.make_attribute(name, value) for name, value in shapes.items())
    proto.graph.node.insert(0, node)
    report = inspect(models.write(proto, tmp_path / "in.onnx"))
    assert reasons(report) == {"y": "no constant weight: Reshape before it cannot be followed"}


def test_an_attribute_twice(tmp_path: Path) -> None:
    proto = model("t = Transpose <perm = [1, 0]> (w) y = MatMul (x, t)", w=W.T.copy())
    proto.graph.node[0].attribute.append(helper.make_attribute("perm", [0, 1]))
    refused(proto, tmp_path, "Node 't' in .* has an attribute twice")
