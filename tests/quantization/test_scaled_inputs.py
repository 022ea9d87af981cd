"""Whole runs that scale inputs inside normalization layers: what is written, and what is said about it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.numpy_helper
import pytest

from onnxfq.calibration.checkpoint import Checkpoint
from onnxfq.reports.report import Report
from onnxfq.scheme import Scheme
from support.models import Array, quantized_by_rtn, run, write, write_external
from support.normed import BODY, FEEDS, network

POINTS = ["q", "kb", "o", "f", "d"]


def quantized(path: Path, **changes: Any) -> Report:
    return quantized_by_rtn(path, **({"calib": FEEDS, "algorithm": "awq"} | changes))


def inner(path: Path, names: Sequence[str], feed: dict[str, Array], folder: Path) -> list[Array]:
    proto = onnx.load(path)
    present = {o.name for o in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    found = run(write(proto, folder / "inner.onnx"), feed)
    return [found[name] for name in names]


def errors(source: Path, output: Path, names: Sequence[str], folder: Path) -> dict[str, float]:
    """Relative error of each value over all samples, of whole models."""
    before, after = (
        [np.concatenate(v) for v in zip(*(inner(path, names, feed, folder) for feed in FEEDS), strict=True)]
        for path in (source, output)
    )
    return {n: float(((a - b) ** 2).sum() / (b**2).sum()) for n, a, b in zip(names, after, before, strict=True)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(network(), tmp_path / "in.onnx")


def layers(path: Path) -> list[onnx.NodeProto]:
    return [node for node in onnx.load(path).graph.node if node.op_type == "LayerNormalization"]


def test_better_than_without_data_and_without_scaling(source: Path, tmp_path: Path) -> None:
    found = {}
    for algorithm in ("awq", "awq:steps=1", "hqq"):
        output = tmp_path / "out.onnx"
        quantized(source, algorithm=algorithm)
        onnx.checker.check_model(str(output), full_check=True)
        found[algorithm] = errors(source, output, ["q", "kb", "f", "y"], tmp_path)
    for name, error in found["awq"].items():
        assert error < found["awq:steps=1"][name] < found["hqq"][name], name
        assert error < 0.7 * found["hqq"][name], name


@pytest.mark.parametrize("algorithm", ["awq", "awq:codes=gptq"])
@pytest.mark.parametrize("memory", [0, 1 << 30], ids=["spilled", "in memory"])
def test_the_report_tells_the_errors_of_the_written_model(
    source: Path, tmp_path: Path, algorithm: str, memory: int
) -> None:
    report = quantized(source, algorithm=algorithm, memory=memory)
    whole = errors(source, tmp_path / "out.onnx", POINTS, tmp_path)
    for name, target in zip(POINTS, report.targets, strict=True):
        assert target.output_error == pytest.approx(whole[name], rel=2e-3), name
        assert target.algorithm == "awq"
    assert not report.skipped


def test_layers_get_vectors_of_their_own(source: Path, tmp_path: Path) -> None:
    report = quantized(source)
    before, after = layers(source), layers(tmp_path / "out.onnx")
    assert [node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node].count("Mul") == 1, "no new nodes"
    assert len({name for node in after for name in node.input[1:]}) == 4
    assert [list(node.output) for node in after] == [list(node.output) for node in before]
    values = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(tmp_path / "out.onnx").graph.initializer}
    assert "gamma" not in values
    for node in after:
        large, small = values[node.input[1]][::17], np.delete(values[node.input[1]], np.s_[::17])
        assert 3 < np.abs(large).mean() / np.abs(small).mean() < 15, "it was 20"
    assert report.targets[0].name == "q"


def test_float16_models(tmp_path: Path) -> None:
    proto = network()
    for item in proto.graph.initializer:
        item.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(item).astype(np.float16), item.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    source = write(proto, tmp_path / "in.onnx")
    feeds = [{"x": feed["x"].astype(np.float16)} for feed in FEEDS]
    report = quantized(source, calib=feeds)
    assert all(target.output_error is not None and target.output_error < 0.02 for target in report.targets)
    values = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(tmp_path / "out.onnx").graph.initializer}
    vectors = [values[name] for node in layers(tmp_path / "out.onnx") for name in node.input[1:]]
    assert len(vectors) == 4
    assert {vector.dtype for vector in vectors} == {np.dtype(np.float16)}


def test_shared_weights_and_read_inputs_are_left_alone(tmp_path: Path) -> None:
    body = BODY.replace("Gemm(g, wf, bf)", "MatMul(g, wq)").replace("Add(o, x)", "Add(o, h)")
    source = write(network(body), tmp_path / "in.onnx")
    report = quantized(source)
    assert [list(node.input[1:]) for node in layers(tmp_path / "out.onnx")] == [["gamma", "beta"]] * 2
    whole = errors(source, tmp_path / "out.onnx", ["q", "kb", "o", "f", "d"], tmp_path)
    for name, target in zip(whole, report.targets, strict=True):
        assert target.output_error == pytest.approx(whole[name], rel=2e-3), name


def test_activations_that_kernels_round(source: Path, tmp_path: Path) -> None:
    report = quantized(source, scheme=Scheme())
    whole = errors(source, tmp_path / "out.onnx", POINTS, tmp_path)
    for name, target in zip(POINTS, report.targets, strict=True):
        assert target.output_error == pytest.approx(whole[name], rel=2e-2), name


@pytest.mark.parametrize("external", [False, True], ids=["inline", "external"])
def test_a_resumed_run_writes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: bool) -> None:
    (tmp_path / "model").mkdir()
    source = (write_external if external else write)(network(), tmp_path / "model" / "in.onnx")
    quantized(source, output=tmp_path / "whole.onnx")
    wanted = (tmp_path / "whole.onnx").read_bytes()
    for stop in (1, 3):
        calls, real = count(1), Checkpoint.save

        def save(*arguments: Any) -> None:
            if next(calls) > stop:  # noqa: B023
                raise KeyboardInterrupt
            real(*arguments)  # noqa: B023

        with monkeypatch.context() as patch:
            patch.setattr(Checkpoint, "save", save)
            with pytest.raises(KeyboardInterrupt):
                quantized(source, output=tmp_path / "out.onnx")
        quantized(source, output=tmp_path / "out.onnx", resume=True)
        assert (tmp_path / "out.onnx").read_bytes() == wanted
        (tmp_path / "out.onnx").unlink()
