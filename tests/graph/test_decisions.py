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
