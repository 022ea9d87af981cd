"""External data: what a model may refer to, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from onnxfq.errors import ModelError
from onnxfq.graph import Graph
from support import models
from support.models import grid, model, proven

W = grid()
SIZE = W.nbytes


def referring(location: str, offset: int | str | None = 0, length: int | str | None = SIZE) -> onnx.ModelProto:
    """A model whose weight lies elsewhere."""
    proto = model("y = MatMul (x, w)", w=W)
    models.refer(proto.graph.initializer[0], location, offset, length)
    return proto


def refused(proto: onnx.ModelProto, folder: Path, match: str) -> None:
    path = models.write(proto, folder / "in.onnx")
    before = models.hashes(folder)
    with pytest.raises(ModelError, match=match):
        models.quantized_by_rtn(path)
    assert models.hashes(folder) == before


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for the model, with the right data both in it and just outside."""
    inside = tmp_path / "inside"
    inside.mkdir()
    for place in (inside, tmp_path):
        (place / "w.bin").write_bytes(W.tobytes())
    return inside


@pytest.mark.parametrize(
    "location",
    [
        "../w.bin",
        "sub/../../w.bin",
        "sub/../w.bin",
        "..",
        "..\\w.bin",
        "sub\\..\\w.bin",
        "C:\\w.bin",
        "C:w.bin",
        "\\w.bin",
        "\\\\server\\share\\w.bin",
        "/etc/passwd",
        "//w.bin",
        "w.bin\0.txt",
        "",
    ],
)
def test_locations_that_leave_the_folder(location: str, folder: Path) -> None:
    (folder / "sub").mkdir()
    refused(referring(location), folder, "leaves the model's folder")


def test_an_absolute_location_into_the_very_folder_is_refused_all_the_same(folder: Path) -> None:
    refused(referring(str(folder / "w.bin")), folder, "leaves the model's folder")


@pytest.mark.parametrize("location", ["missing.bin", "sub/w.bin", "w.bin/below", "x" * 300])
def test_missing_files(location: str, folder: Path) -> None:
    refused(referring(location), folder, "is missing")


def test_a_link_in_circles(folder: Path) -> None:
    (folder / "loop.bin").symlink_to("loop.bin")
    path = models.write(referring("loop.bin"), folder / "in.onnx")
    with pytest.raises(ModelError, match="is missing"):
        Graph.load(path)


@pytest.mark.parametrize("location", [".", "sub", "pipe"])
def test_what_is_no_regular_file(location: str, folder: Path) -> None:
    (folder / "sub").mkdir()
    os.mkfifo(folder / "pipe")
    refused(referring(location), folder, "not a regular file")


def test_a_device(folder: Path) -> None:
    (folder / "zero").symlink_to("/dev/zero")
    path = models.write(referring("zero"), folder / "in.onnx")
    with pytest.raises(ModelError, match="not a regular file"):
        Graph.load(path)


def test_a_link_out_of_the_folder(folder: Path) -> None:
    (folder / "w.bin").unlink()
    (folder / "w.bin").symlink_to("../w.bin")
    refused(referring("w.bin"), folder, "a symbolic link out of the model's folder")


def test_a_folder_that_is_a_link_out(folder: Path, tmp_path: Path) -> None:
    (folder / "sub").symlink_to(tmp_path)
    refused(referring("sub/w.bin"), folder, "a symbolic link out of the model's folder")


def test_a_link_within_the_folder(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "w.bin").rename(folder / "deep" / "real.bin")
    (folder / "w.bin").symlink_to("deep/real.bin")
    path = models.write(referring("w.bin"), folder / "in.onnx")
    models.quantized_by_rtn(path)
    whole = models.write(model("y = MatMul (x, w)", w=W), folder / "whole.onnx")
    models.compare(whole, folder / "out.onnx")


def cached(root: Path) -> Path:
    """A model as Hugging Face's cache keeps it: links in `snapshots` to files in `blobs`."""
    snapshot, blobs = root / "models--a--b" / "snapshots" / "0123" / "onnx", root / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "aaaa").write_bytes(W.tobytes())
    models.write(referring("model.onnx_data"), blobs / "bbbb")
    (snapshot / "model.onnx").symlink_to("../../../blobs/bbbb")
    (snapshot / "model.onnx_data").symlink_to("../../../blobs/aaaa")
    return snapshot / "model.onnx"


def test_the_layout_of_hugging_faces_cache(tmp_path: Path) -> None:
    path = cached(tmp_path)
    models.quantized_by_rtn(path, tmp_path / "out.onnx")
    whole = models.write(model("y = MatMul (x, w)", w=W), tmp_path / "whole.onnx")
    models.compare(whole, tmp_path / "out.onnx")


def test_hugging_faces_cache_behind_a_link(tmp_path: Path) -> None:
    path = cached(tmp_path)
    (tmp_path / "here").symlink_to(path.parent)
    assert len(Graph.load(tmp_path / "here" / "model.onnx").files) == 2


def test_a_cache_is_no_licence_to_go_anywhere(tmp_path: Path) -> None:
    path = cached(tmp_path)
    (tmp_path / "secret").write_bytes(W.tobytes())
    data = path.with_name("model.onnx_data")
    data.unlink()
    data.symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match="a symbolic link out of the model's folder"):
        Graph.load(path)


@pytest.mark.parametrize(
    ("offset", "length", "match"),
    [
        (0, SIZE + 4, "declares a shape of 8192 bytes, but 8196 bytes"),
        (0, SIZE - 4, "declares a shape of 8192 bytes, but 8188 bytes"),
        (0, 0, "declares a shape of 8192 bytes, but 0 bytes"),
        (4, SIZE, "is cut short: bytes 4 to 8196 wanted"),
        (4, None, "is cut short: bytes 4 to 8196 wanted"),
        (2**63, SIZE, "is cut short"),
        (10**40, SIZE, "is cut short"),
        (-4, SIZE, "negative offset or length"),
        (0, -1, "negative offset or length"),
        ("four", SIZE, "garbled offset or length"),
        (0, "0x2000", "garbled offset or length"),
        ("1.5", SIZE, "garbled offset or length"),
        ("", SIZE, "garbled offset or length"),
        (0, "", "garbled offset or length"),
        ("9" * 5000, SIZE, "garbled offset or length"),
    ],
)
def test_wrong_places(offset: int | str, length: int | str | None, match: str, folder: Path) -> None:
    refused(referring("w.bin", offset, length), folder, match)


def test_data_that_are_too_short(folder: Path) -> None:
    (folder / "w.bin").write_bytes(W.tobytes()[:-1])
    refused(referring("w.bin"), folder, "is cut short: bytes 0 to 8192 wanted, '.*' has 8191")


@pytest.mark.parametrize(("offset", "length"), [(None, None), (None, SIZE), (0, None)])
def test_offset_and_length_may_be_left_out(offset: int | None, length: int | None, folder: Path) -> None:
    path = models.write(referring("w.bin", offset, length), folder / "in.onnx")
    proven(path, folder)


def test_offset_and_length_may_be_left_out_of_a_longer_file(folder: Path) -> None:
    (folder / "w.bin").write_bytes(W.tobytes() + bytes(100))
    graph = Graph.load(models.write(referring("w.bin", None, None), folder / "in.onnx"))
    constant = graph.constant(next(iter(graph.nodes())), 1)
    assert constant.load().tobytes() == W.tobytes()  # type: ignore[union-attr]


def test_a_file_in_a_folder_below(folder: Path) -> None:
    (folder / "data" / "of it").mkdir(parents=True)
    (folder / "w.bin").rename(folder / "data" / "of it" / "w.bin")
    proven(models.write(referring("data/of it/w.bin"), folder / "in.onnx"), folder)


def test_a_relative_path_to_the_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models.write(referring("w.bin"), folder / "in.onnx")
    monkeypatch.chdir(folder)
    proven(Path("in.onnx"), Path())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(folder: Path) -> None:
    (folder / "w.bin").chmod(0)
    path = models.write(referring("w.bin"), folder / "in.onnx")
    with pytest.raises(ModelError, match="Cannot read"):
        models.quantized_by_rtn(path)


def in_initializer(proto: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    proto.graph.initializer.append(tensor)


def in_constant(proto: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    node = models.constant(W, "bad")
    node.attribute[0].t.CopyFrom(tensor)
    proto.graph.node.insert(0, node)


def in_subgraph(proto: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    models.branch(models.find(proto.graph.node, "If"), "then_branch").initializer.append(tensor)


def in_function(proto: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    node = models.constant(W, "bad")
    node.attribute[0].t.CopyFrom(tensor)
    proto.functions[0].node.insert(0, node)


def in_functions_default(proto: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    proto.functions[0].attribute_proto.append(onnx.helper.make_attribute("bad", tensor))


def in_sparse(proto: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    sparse = proto.graph.sparse_initializer.add(dims=[100, 100])
    sparse.values.CopyFrom(tensor)


def in_training(proto: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    proto.training_info.add().algorithm.initializer.append(tensor)


@pytest.mark.parametrize(
    "put",
    [in_initializer, in_constant, in_subgraph, in_function, in_functions_default, in_sparse, in_training],
    ids=lambda put: put.__name__,
)
def test_no_tensor_escapes_the_look(put: Callable[[onnx.ModelProto, onnx.TensorProto], None], folder: Path) -> None:
    body = """
        a = local.rectify (x)
        y = If (c) <
            then_branch = yes () => (float[M, 32] u) { u = MatMul (a, w) },
            else_branch = no () => (float[M, 32] v) { v = MatMul (x, w) }
        >
    """
    function = '<domain: "local", opset_import: ["" : 17]> rectify (a) => (b) { b = Relu (a) }'
    proto = model(body, x="float[M, 64] x, bool c", domains=', "local" : 1', functions=function, w=W)
    bad = models.tensor(W, "bad")
    models.refer(bad, "../w.bin", 0, SIZE)
    put(proto, bad)
    refused(proto, folder, "leaves the model's folder")
