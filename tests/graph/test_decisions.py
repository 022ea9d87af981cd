"""Decisions: the quantized model goes where the original goes, so that rows of one token stand side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxfq
from onnxfq.reports.report import Report
from onnxfq.scheme import Scheme
from support.models import Array, model, write
from support.sampled import tokens
from support.tiny import weight

ROUTED = {
    "NonZero": "b = Greater(g, zero) nz = NonZero(b) rows = Squeeze(nz, ax0)",
    "TopK": "v, rows = TopK(g, few)",
    "ArgMax": "two = Reshape(g, pairs) best = ArgMax<axis = 1, keepdims = 0>(two) start = Mul(best, fifty) "
    "rows = Add(start, steps)",
}


def routed(how: str) -> tuple[str, dict[str, Array]]:
    """An expert that gets the rows which a router chooses by values that quantizing changes."""
    body = f"h = MatMul(x, w0) r = MatMul(h, w1) g = ReduceSum<keepdims = 0>(r, ax1) {ROUTED[how]} "
    body += "e = Gather(h, rows) f = MatMul(e, w2) t = Relu(f) y = MatMul(t, w3)"
    constants: dict[str, Array] = {f"w{i}": weight(i) / np.float32(8) for i in range(4)}
    constants |= {"ax0": np.array([0]), "ax1": np.array([1]), "zero": np.array(0, np.float32), "few": np.array([40])}
    constants |= {"pairs": np.array([50, 2]), "fifty": np.array(50), "steps": np.arange(50)}
    used = {word.strip("(),") for word in body.replace("(", " ").split()}
    return body, {name: value for name, value in constants.items() if name in used}


def calibrate(proto: onnx.ModelProto, folder: Path) -> Report:
    source, samples = write(proto, folder / "in.onnx"), tokens(*[100] * 4)
    return onnxfq.quantize(
        source, folder / "out.onnx", calib=samples, provider="cpu", validate=False, scheme=Scheme(activations="float")
    )


@pytest.mark.parametrize("how", list(ROUTED))
def test_the_rows_of_an_expert_are_those_of_the_same_tokens(tmp_path: Path, how: str) -> None:
    body, constants = routed(how)
    proto = model(body, y="float[R, 64] y", constants=constants)
    report = calibrate(proto, tmp_path)
    expert, after = (next(target for target in report.targets if target.name == name) for name in ("f", "y"))
    assert 0 < expert.tokens < 400
    # Rows of other tokens would have errors as large as they are themselves.
    assert expert.output_error is not None
    assert expert.output_error < 0.02
    assert after.output_error is not None
    assert after.output_error < 0.02


def test_an_expert_that_few_tokens_reach_is_named(tmp_path: Path) -> None:
    body, constants = routed("TopK")
    proto = model(body, y="float[R, 64] y", constants=constants | {"few": np.array([5])})
    report = calibrate(proto, tmp_path)
    assert {target.name: target.tokens for target in report.targets} == {"h": 400, "r": 400, "f": 20, "y": 20}
    assert "2 nodes were calibrated with 32 tokens or fewer" in " ".join(report.warnings)
    assert "'f': 20, 'y': 20" in " ".join(report.warnings)


@pytest.mark.parametrize(("axis", "largest"), [(-1, 1), (1, 0), (0, 1), (0, 0)])
def test_the_largest_values_are_those_of_the_same_places(tmp_path: Path, axis: int, largest: int) -> None:
    turned, count = ("Transpose(v)", 40) if axis == 0 else ("Identity(v)", 64)
    body = f"h = MatMul(x, w0) v, i = TopK<axis = {axis}, largest = {largest}>(h, k) t = {turned} y = MatMul(t, w1)"
    constants = {"w0": weight(0) / 8, "k": np.array([count]), "w1": weight(1)[:count] / 8}
    report = calibrate(model(body, y="float[R, 64] y", constants=constants), tmp_path)
    after = next(target for target in report.targets if target.name == "y")
    assert after.output_error is not None
    assert after.output_error < 0.02  # values of other places are another input


def test_before_opset_11_values_are_what_they_become(tmp_path: Path) -> None:
    body = "h = MatMul(x, w0) v, i = TopK<axis = -1>(h, k) y = MatMul(v, w1)"
    constants = {"w0": weight(0) / 8, "k": np.array([32]), "w1": weight(1)[:32] / 8}
    report = calibrate(model(body, y="float[M, 64] y", opset=10, ir=6, constants=constants), tmp_path)
    assert {target.name: target.tokens for target in report.targets} == {"h": 400, "y": 400}


def test_rows_without_a_counterpart_are_measured_in_the_quantized_model_alone(tmp_path: Path) -> None:
    """Inside a function nobody sees what is decided there."""
    functions = (
        '<opset_import: ["": 17], domain: "local"> choose (h, g) => (e) { zero = Constant<value = float {0}>() '
        "b = Greater(g, zero) nz = NonZero(b) ax = Constant<value = int64[1] {0}>() rows = Squeeze(nz, ax) "
        "e = Gather(h, rows) }"
    )
    body = "h = MatMul(x, w0) r = MatMul(h, w1) g = ReduceSum<keepdims = 0>(r, ax1) e = local.choose(h, g) "
    body += "y = MatMul(e, w2)"
    constants = {**{f"w{i}": weight(i) / np.float32(8) for i in range(3)}, "ax1": np.array([1])}
    proto = model(body, y="float[R, 64] y", domains=', "local" : 1', functions=functions, ir=9, constants=constants)
    report = calibrate(proto, tmp_path)
    last = report.targets[-1]
    assert (last.name, last.algorithm) == ("y", "gptq")
    assert 0 < last.tokens < 400
