"""Comparisons that mean something: no error of 0 that was not measured on a quantized weight, in whole runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxfq
from onnxfq import GateError, Report
from onnxfq.metrics.gates import Gates
from onnxfq.reports.verdict import verdict
from support.models import Array, model, write
from support.tiny import weight

LIMITS: dict[str, Any] = {"max_error": 1e9, "min_cosine": 0.0}
CONSTANTS: dict[str, Array] = {
    "w": weight(0),
    "none": np.array(-np.inf, np.float32),
    "zero": np.array(0, np.float32),
    "least": np.array(-1e9, np.float32),
    "ends": np.array([0]),
    "one": np.array([1]),
    "last": np.array([63]),
    "far": np.array([64]),
    "no": np.array(False),
    "bias": weight(3, 1, 64)[0],
}
HEAD = 'ai.onnx.ml.LabelEncoder <keys_int64s = [0, 1], values_strings = ["a", "b"]>'


def samples(count: int = 4) -> list[Mapping[str, Array]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((9, 64)).astype(np.float32)} for _ in range(count)]


def compared(tmp_path: Path, body: str, y: str, **settings: Any) -> Report:
    words = set(re.findall(r"\w+", body))
    used = {name: array for name, array in CONSTANTS.items() if name in words}
    proto = model(body, x="float[9, 64] x", y=y, opset=18, domains=', "ai.onnx.ml" : 2', constants=used)
    path = write(proto, tmp_path / "in.onnx")
    return onnxfq.quantize(path, tmp_path / "out.onnx", eval_data=samples(), provider="cpu", **LIMITS, **settings)


def evaluated(tmp_path: Path, model: str = "out.onnx") -> onnxfq.Evaluation:
    np.savez(tmp_path / "x.npz", x=np.stack([sample["x"] for sample in samples()]))
    return onnxfq.evaluate(
        tmp_path / model, tmp_path / "in.onnx", data=tmp_path / "x.npz", task="outputs", provider="cpu", **LIMITS
    )


def test_a_model_beside_itself_has_no_error(tmp_path: Path) -> None:
    compared(tmp_path, "p = MatMul(x, w) y = Relu(p)", "float[9, 64] y", algorithm="rtn")
    found = evaluated(tmp_path, "in.onnx")
    assert {gate.name: gate.measured for gate in found.require().gates} == {
        "max-error": 0.0, "min-cosine": pytest.approx(1.0)
    }  # fmt: skip


@pytest.mark.parametrize("seen", [True, False])
def test_agreement_of_classes_needs_a_quantized_weight(seen: bool, tmp_path: Path) -> None:
    body = f"p = MatMul(x, w) logits = Where({'g' if seen else 'no'}, p, x)"
    rows = np.random.default_rng(1).standard_normal((9, 64)).astype(np.float32)
    path = write(
        model(f"g = Greater(x, zero) {body}", x="float[B, 64] x", y="float[B, 64] logits", opset=18,
              constants={name: CONSTANTS[name] for name in ("w", "zero", *([] if seen else ["no"]))}),
        tmp_path / "classes.onnx",
    )  # fmt: skip
    onnxfq.quantize(path, tmp_path / "small.onnx", algorithm="rtn", validate=False)
    np.savez(tmp_path / "labelled.npz", x=rows, labels=np.arange(9))
    found = onnxfq.evaluate(
        tmp_path / "small.onnx", path, data=tmp_path / "labelled.npz", task="classification", max_kl=99.0
    )
    (gate,) = found.gates
    assert gate.passed is seen
    assert (gate.measured is None) is not seen
    assert (found["kl"].note or "").startswith("" if seen else "no output depends on a quantized weight")
    assert found["accuracy"].value is not None


# What there is to see of the weights: the body, the outputs, and what is said of them.
NOTHING = {
    "masked": ("p = MatMul(x, w) y = Where(no, p, bias)", "float[9, 64] y", "no output depends on a quantized weight"),
    "masked, beside the input": (
        "p = MatMul(x, w) m = Where(no, p, bias) y = Add(x, m)", "float[9, 64] y", "no output depends on a quantized"),
    "masked, and labels of it": (
        "p = MatMul(x, w) m = Where(no, p, bias) y = Add(x, m) label = ArgMax<axis = 1>(y)",
        "float[9, 64] y, int64[9, 1] label", "no output depends on a quantized weight"),
    "times zero": ("p = MatMul(x, w) y = Mul(p, zero)", "float[9, 64] y", "no output depends on a quantized weight"),
    "below all": ("p = MatMul(x, w) c = Min(p, least) y = Relu(c)", "float[9, 64] y", "no output depends"),
    "infinite": ("p = MatMul(x, w) logits = Where(no, p, none)", "float[9, 64] logits", "no element is finite"),
    "NaN": ("p = MatMul(x, w) a = Abs(p) n = Neg(a) y = Log(n)", "float[9, 64] y", "no element is finite"),
    "no elements": ("p = MatMul(x, w) y = Slice(p, far, far, one)", "float[9, 0] y", "no floating-point output has"),
    "the same label": (
        "p = MatMul(x, w) m = Where(no, p, bias) label = ArgMax<axis = 1>(m)", "int64[9, 1] label", "floating-point"),
    "the same text": (
        f"p = MatMul(x, w) m = Where(no, p, zero) i = Cast<to = 7>(m) text = {HEAD}(i)", "string[9, 64] text",
        "no output is floating-point"),
    "a sequence": ("p = MatMul(x, w) s = SequenceConstruct(p, x)", "seq(float[9, 64]) s", "s: not compared: it is a"),
    "found where the input is": (
        "p = MatMul(x, w) g = Greater(p, zero) found = NonZero(g) y = Neg(x)", "int64[2, n] found, float[9, 64] y",
        "no quantized weight reaches a floating-point output"),
    "rows that are found": (
        "p = MatMul(x, w) s = ReduceSum<keepdims = 0>(p, one) g = Greater(s, zero) y = Compress<axis = 0>(p, g) "
        "q = Greater(p, zero) v = Compress(p, q)", "float[n, 64] y, float[m] v", "its length follows from the values"),
    "what no weight reaches": (
        "p = MatMul(x, w) z = Cast<to = 7>(p) y = Neg(x)", "float[9, 64] y, int64[9, 64] z",
        "no quantized weight reaches a floating-point output"),
}  # fmt: skip
JUDGED_BY_OTHERS = ("rows that are found", "what no weight reaches")  # which are not what the gates are about
SOMETHING = {
    "one of two": ("p = MatMul(x, w) y = Relu(p) z = Neg(x)", "float[9, 64] y, float[9, 64] z"),
    "some rows are infinite": (
        "p = MatMul(x, w) g = Greater(x, zero) logits = Where(g, p, none)", "float[9, 64] logits"),
    "a sequence beside it": ("p = MatMul(x, w) s = SequenceConstruct(p, x)", "float[9, 64] p, seq(float[9, 64]) s"),
    "in a branch": (
        "y = If (no) <then_branch = a () => (float[9, 64] t) { t = Neg(x) }, "
        "else_branch = b () => (float[9, 64] r) { r = MatMul(x, w) }>", "float[9, 64] y"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOTHING)
def test_a_gate_needs_something_that_was_measured(case: str, tmp_path: Path) -> None:
    body, y, why = NOTHING[case]
    report = compared(tmp_path, body, y, algorithm="rtn")
    assert [(gate.passed, gate.measured) for gate in report.gates] == [(False, None)] * 2
    assert all(why in gate.note for gate in report.gates), [gate.note for gate in report.gates]
    with pytest.raises(GateError, match="without a figure"):
        report.require()
    judged = verdict(report.with_gates(Gates()))
    assert (judged.word == "NOT COMPARED") is (case not in JUDGED_BY_OTHERS), judged
    assert ("no output changed at all" in judged.text) is report.shows_nothing
    assert not (report.shows_nothing and any(output.unmatched for output in report.outputs))
    found = evaluated(tmp_path)
    assert [(gate.passed, gate.measured) for gate in found.gates] == [(False, None)] * 2
    assert all(why in gate.note for gate in found.gates), [gate.note for gate in found.gates]


@pytest.mark.parametrize("case", SOMETHING)
def test_what_was_measured_passes(case: str, tmp_path: Path) -> None:
    report = compared(tmp_path, *SOMETHING[case], algorithm="rtn")
    assert report.require().passed
    assert all((gate.measured or 0) > 0 for gate in report.gates)
    assert not report.shows_nothing
    assert evaluated(tmp_path).require().passed
    assert verdict(report).level in ("negligible", "small")
