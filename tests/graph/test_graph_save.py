"""How models are written: where tensors go, what is shared, and that the same input gives the same bytes."""

from __future__ import annotations

from importlib import import_module
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import pytest

from onnxfq.errors import ModelError, UsageError
from support import models
from support.models import Array, Outcome, grid, model, proven

W = grid(128, 64)  # 4096 bytes of codes, 1024 of scales, 128 of zero points
BODY = "e = Gather (table, ids)  a = MatMul (e, w)  b = Add (a, row)  y = MatMul (b, v)"


def weights(seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    table = rng.standard_normal((50, 128)).astype(np.float32)
    return {"table": table, "w": W, "row": rng.standard_normal(64).astype(np.float32), "v": grid(64, 32)}


def network() -> onnx.ModelProto:
    return model(BODY, x="int64[M] ids", constants=weights())


FEED = {"ids": np.array([0, 7, 49])}


def quantized(source: Path, folder: Path) -> Outcome:
    return proven(source, folder, targets=2, feed=FEED)


def references(path: Path) -> dict[str, dict[str, str]]:
    """External data of a file's initializers."""
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    return {t.name: {e.key: e.value for e in t.external_data} for t in tensors if t.external_data}


@pytest.fixture
def always_external(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("onnxfq.graph.save"), "EXTERNAL_FROM_BYTES", 0)


def test_small_models_are_one_file(tmp_path: Path) -> None:
    quantized(models.write(network(), tmp_path / "in.onnx"), tmp_path)
    assert sorted(models.hashes(tmp_path)) == ["in.onnx", "out.onnx"]


@pytest.mark.usefixtures("always_external")
def test_large_models_are_two(tmp_path: Path) -> None:
    outcome = quantized(models.write(network(), tmp_path / "in.onnx"), tmp_path)
    assert sorted(models.hashes(tmp_path)) == ["in.onnx", "out.onnx", "out.onnx.data"]
    stored = references(outcome.output)
    assert sorted(stored) == ["table", "w_Q4"]  # the others are small and stay in the message
    assert {r["location"] for r in stored.values()} == {"out.onnx.data"}


@pytest.mark.parametrize("files", [1, 3])
def test_a_source_with_data_files_becomes_a_pair(files: int, tmp_path: Path) -> None:
    outcome = quantized(models.write_external(network(), tmp_path / "in.onnx", files=files, padding=13), tmp_path)
    assert {r["location"] for r in references(outcome.output).values()} == {"out.onnx.data"}
    assert outcome.initializers["table"].raw_data == weights()["table"].tobytes()


@pytest.mark.usefixtures("always_external")
def test_offsets_are_aligned_for_mapping(tmp_path: Path) -> None:
    outcome = quantized(models.write(network(), tmp_path / "in.onnx"), tmp_path)
    spans = []
    for name, reference in references(outcome.output).items():
        offset, length = int(reference["offset"]), int(reference["length"])
        assert offset % (4096 if length >= 4096 else 64) == 0, name
        spans.append((offset, offset + length))
    spans.sort()
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert spans[-1][1] == (tmp_path / "out.onnx.data").stat().st_size


def test_tensors_that_share_bytes_in_the_source_share_them_in_the_output(tmp_path: Path) -> None:
    body = "a = Gather (t1, ids)  b = Gather (t2, ids)  c = Gather (part, ids)  d = Sum (a, b, c)  y = MatMul (d, w)"
    proto = model(body, x="int64[M] ids", y="float[M, 64] y", w=W)
    table = weights()["table"]
    for name, rows in (("t1", 50), ("t2", 50), ("part", 20)):
        tensor = models.tensor(table[:rows], name)
        models.refer(tensor, "tables.bin", 0, rows * 512)
        proto.graph.initializer.append(tensor)
    (tmp_path / "tables.bin").write_bytes(table.tobytes())
    models.write(proto, tmp_path / "in.onnx")
    outcome = proven(tmp_path / "in.onnx", tmp_path, feed={"ids": np.array([0, 7, 19])})
    stored = references(outcome.output)
    assert stored["t1"] == stored["t2"] != stored["part"]


@pytest.mark.parametrize("files", [0, 2])
def test_the_source_is_never_modified(files: int, tmp_path: Path) -> None:
    source = tmp_path / "in.onnx"
    if files:
        models.write_external(network(), source, files=files)
    else:
        models.write(network(), source)
    before, times = models.hashes(tmp_path), {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    quantized(source, tmp_path)
    after = models.hashes(tmp_path)
    assert {name: after[name] for name in before} == before
    assert {p: p.stat().st_mtime_ns for p in times} == times


@pytest.mark.parametrize("external", [False, True], ids=["inline", "external"])
def test_the_same_bytes_for_every_run_and_any_number_of_threads(external: bool, tmp_path: Path) -> None:
    outputs = []
    for run, threads in enumerate((None, 1, 2)):
        folder = tmp_path / str(run)  # another path each time
        folder.mkdir()
        source = models.write_external(network(), folder / "in.onnx") if external else models.write(
            network(), folder / "in.onnx"
        )  # fmt: skip
        models.quantized_by_rtn(source, threads=threads)
        outputs.append({n: h for n, h in models.hashes(folder).items() if n.startswith("out")})
    assert outputs[0] == outputs[1] == outputs[2]
    assert len(outputs[0]) == 1 + external


@pytest.mark.parametrize("external", [False, True], ids=["inline", "external"])
def test_quantizing_twice_is_quantizing_once(external: bool, tmp_path: Path) -> None:
    source = tmp_path / "in.onnx"
    if external:
        models.write_external(network(), source, files=2, padding=50)
    else:
        models.write(network(), source)
    once = quantized(source, tmp_path)
    before = models.hashes(tmp_path)
    report = models.quantized_by_rtn(once.output, tmp_path / "twice.onnx")
    assert report.output is None
    assert not report.targets
    assert [s.reason for s in report.skipped if "too small" not in s.reason] == ["already quantized"] * 2
    assert "already quantized" in report.warnings[0]
    assert models.hashes(tmp_path) == before


@pytest.mark.parametrize("external", [False, True], ids=["inline", "external"])
def test_in_two_steps_is_no_worse_than_in_one(external: bool, tmp_path: Path) -> None:
    source = tmp_path / "in.onnx"
    source = models.write_external(network(), source) if external else models.write(network(), source)
    first = proven(source, tmp_path, feed=FEED, include=("^a$",))
    report = models.quantized_by_rtn(first.output, tmp_path / "second.onnx")
    assert [t.name for t in report.targets] == ["y"]
    models.compare(source, tmp_path / "second.onnx", FEED)


def test_folders_and_files_with_letters_of_any_script(tmp_path: Path) -> None:
    folder = tmp_path / "модель ∂ 模型"
    folder.mkdir()
    quantized(models.write_external(network(), folder / "исходник.onnx"), folder)


@pytest.mark.parametrize("data", ["in.onnx", "in.0.bin"])
def test_an_output_that_is_a_source_is_refused(data: str, tmp_path: Path) -> None:
    source = models.write_external(network(), tmp_path / "in.onnx")
    before = models.hashes(tmp_path)
    with pytest.raises(UsageError, match="would overwrite the source"):
        models.quantized_by_rtn(source, tmp_path / data)
    (tmp_path / "link.onnx").hardlink_to(tmp_path / data)
    with pytest.raises(UsageError, match="would overwrite the source"):
        models.quantized_by_rtn(source, tmp_path / "link.onnx")
    (tmp_path / "link.onnx").unlink()
    assert models.hashes(tmp_path) == before


def test_an_output_whose_data_file_is_a_source_is_refused(tmp_path: Path) -> None:
    source = models.write_external(network(), tmp_path / "in.onnx")
    proto = onnx.load(source, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            entry.value = entry.value.replace("in.0.bin", "x.onnx.data")
    (tmp_path / "in.0.bin").rename(tmp_path / "x.onnx.data")
    models.write(proto, source)
    with pytest.raises(UsageError, match="would overwrite the source"):
        models.quantized_by_rtn(source, tmp_path / "x.onnx")


@pytest.mark.usefixtures("always_external")
def test_large_tensors_in_attributes_and_subgraphs(tmp_path: Path) -> None:
    """Initializers of subgraphs go to the data file; Constant nodes keep their values."""
    body = """
        y = If (c) <
            then_branch = yes () => (float[M, 64] u) { p = MatMul (x, w1)  u = Add (p, big) },
            else_branch = no () => (float[M, 64] v) { q = MatMul (x, w2)  v = Add (q, more) }
        >
    """
    proto = model(body, x="float[3, 128] x, bool c", y="float[3, 64] y")
    yes, no = (models.branch(proto.graph.node[0], name) for name in ("then_branch", "else_branch"))
    big = np.random.default_rng(0).standard_normal((64, 3, 64)).astype(np.float32)[:, :1].repeat(3, axis=1)
    yes.initializer.extend([models.tensor(W, "w1"), models.tensor(big[:1].repeat(16, axis=0), "big")])
    no.node.insert(0, models.constant(W, "w2"))
    no.node.insert(0, models.constant(big[:1].repeat(16, axis=0), "more"))
    outcome = proven(proto, tmp_path, targets=2, feed={"c": np.array(True)})
    models.compare(outcome.source, outcome.output, {"c": np.array(False)})
    written = onnx.load(outcome.output, load_external_data=False)
    yes, no = (models.branch(written.graph.node[0], name) for name in ("then_branch", "else_branch"))
    assert {t.name for t in yes.initializer if t.external_data} == {"big", "w1_Q4"}
    assert {t.name for t in no.initializer if t.external_data} == {"w2_Q4"}
    kept = models.find(no.node, "Constant").attribute[0].t
    assert kept.raw_data == big[:1].repeat(16, axis=0).tobytes()


def test_a_source_without_large_tensors_left_leaves_no_empty_data_file(tmp_path: Path) -> None:
    outcome = proven(models.write_external(model("y = MatMul (x, w)", w=grid()), tmp_path / "in.onnx"), tmp_path)
    assert not references(outcome.output)
    assert sorted(models.hashes(tmp_path)) == ["in.0.bin", "in.onnx", "out.onnx"]


def test_empty_external_tensors_need_no_file(tmp_path: Path) -> None:
    proto = model("p = MatMul (x, w)  q = Concat <axis = 0> (p, e)  y = Identity (q)", w=grid())
    empty = models.tensor(np.empty((0, 32), np.float32), "e")
    models.refer(empty, "nowhere.bin", 0, 0)
    proto.graph.initializer.append(empty)
    models.write(proto, tmp_path / "in.onnx")
    models.quantized_by_rtn(tmp_path / "in.onnx")
    written = onnx.load(tmp_path / "out.onnx")
    assert [t.data_location for t in written.graph.initializer] == [0] * len(written.graph.initializer)
    assert models.run(tmp_path / "out.onnx", {"x": np.ones((2, 64), np.float32)})["y"].shape == (2, 32)


def test_constant_nodes_that_lie_in_files_are_embedded(tmp_path: Path) -> None:
    proto = model("p = MatMul (x, w)  y = Add (p, c)", y="float[64, 32] y", x="float[64, 64] x", w=grid())
    node = models.constant(grid(seed=4), "c")
    models.refer(node.attribute[0].t, "c.bin", 64, 8192)
    (tmp_path / "c.bin").write_bytes(bytes(64) + grid(seed=4).tobytes())
    proto.graph.node.insert(0, node)
    outcome = proven(proto, tmp_path)
    assert models.find(outcome.model.graph.node, "Constant").attribute[0].t.raw_data == grid(seed=4).tobytes()


def test_a_source_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    source = models.write(network(), tmp_path / "in.onnx")

    def disturb(what: str, done: int, total: int) -> None:
        if what == "verifying":
            source.write_bytes(source.read_bytes())

    with pytest.raises(ModelError, match="was changed while it was being read"):
        models.quantized_by_rtn(source, progress=disturb)
    assert sorted(models.hashes(tmp_path)) == ["in.onnx"]


def test_a_message_of_more_than_two_gibibytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("onnxfq.graph.save"), "_LARGEST_MESSAGE", 20000)
    with pytest.raises(ModelError, match="would exceed 2 GiB"):
        models.quantized_by_rtn(models.write(network(), tmp_path / "in.onnx"))
    assert sorted(models.hashes(tmp_path)) == ["in.onnx"]
