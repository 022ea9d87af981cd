"""LSTM: with products of int8 where that is faster, left alone with the reason elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxfq.errors import SchemeError
from onnxfq.graph import Graph
from onnxfq.pipeline import inspect
from onnxfq.quantization.find import find
from onnxfq.scheme import Scheme
from support import models
from support.models import Array, grid, model, proven, reasons

HIDDEN, INPUTS = 128, 48
INT8: dict[str, Any] = {"scheme": Scheme(), "tolerance": 0.05}


def weights(directions: int = 1, hidden: int = HIDDEN) -> dict[str, Array]:
    """On a grid of 8 bits, symmetrically, a scale a row."""
    rng = np.random.default_rng(0)
    found = {}
    for name, k in (("w", INPUTS), ("r", hidden)):
        codes = rng.integers(-128, 128, (directions, 4 * hidden, k))
        codes[:, :, 0] = -128
        found[name] = (codes * rng.uniform(0.5, 1.5, (directions, 4 * hidden, 1)) / 1500).astype(np.float32)
    return found


LAYERS: dict[str, tuple[str, int, str, dict[str, Array]]] = {
    "plain": ("y, h, c = LSTM <hidden_size = 128> (x, w, r)", 1, "", {}),
    "with a bias": ("y, h, c = LSTM <hidden_size = 128> (x, w, r, b)", 1, "", {
        "b": models.normal(1, 8 * HIDDEN) / np.float32(4)}),
    "backwards": ('y, h, c = LSTM <hidden_size = 128, direction = "reverse"> (x, w, r)', 1, "", {}),
    "both ways": ('y, h, c = LSTM <hidden_size = 128, direction = "bidirectional"> (x, w, r)', 2, "", {}),
    "from a state": ("y, h, c = LSTM <hidden_size = 128> (x, w, r, none, none, h0, c0)", 1,
                     "float[1, 2, 128] h0, float[1, 2, 128] c0", {}),
    "of some length": ("y, h, c = LSTM <hidden_size = 128> (x, w, r, none, lengths)", 1, "", {
        "lengths": np.array([4, 6], np.int32)}),
    "with peepholes": ("y, h, c = LSTM <hidden_size = 128> (x, w, r, none, none, none, none, p)", 1, "", {
        "p": models.normal(1, 3 * HIDDEN) / np.float32(4)}),
    "with other activations": (
        'y, h, c = LSTM <hidden_size = 128, activations = ["HardSigmoid", "Tanh", "Relu"], clip = 3.0> (x, w, r)',
        1, "", {}),
}  # fmt: skip


def layer(body: str, inputs: str = "", directions: int = 1, **constants: Array) -> onnx.ModelProto:
    more = f", {inputs}" if inputs else ""
    proto = model(body, x=f"float[6, 2, {INPUTS}] x{more}", y=f"float[6, {directions}, 2, 128] y",
                  constants={**weights(directions), **constants})  # fmt: skip
    for node in proto.graph.node:
        node.input[:] = ["" if name == "none" else name for name in node.input]
    return proto


@pytest.mark.parametrize("case", LAYERS)
def test_a_layer_computes_the_same(case: str, tmp_path: Path) -> None:
    body, directions, inputs, constants = LAYERS[case]
    outcome = proven(layer(body, inputs, directions, **constants), tmp_path, targets=2, **INT8)
    (node,) = outcome.nodes("DynamicQuantizeLSTM")
    before = onnx.load(outcome.source).graph.node[0]
    assert list(node.attribute) == list(before.attribute)
    assert not {"w", "r"} & outcome.initializers.keys()
    assert [(t.name, t.bits, t.granularity) for t in outcome.report.targets] == [
        ("y[W]", 8, "channel"),
        ("y[R]", 8, "channel"),
    ]
    assert all((t.relative_error or 0.0) < 1e-10 for t in outcome.report.targets)
    seen = inspect(outcome.source, algorithm="rtn", provider="cpu", scheme=Scheme())
    assert [(t.name, t.bytes) for t in seen.targets] == [(t.name, t.bytes) for t in outcome.report.targets]
    again = models.quantized_by_rtn(outcome.output, tmp_path / "twice.onnx", scheme=Scheme())
    assert (again.targets, again.output) == ((), None)


def test_a_layer_that_returns_its_state_alone(tmp_path: Path) -> None:
    body = "none, h, c = LSTM <hidden_size = 128> (x, w, r)  y = Unsqueeze (h, zero)"
    proto = layer(body, zero=np.array([0]))
    proto.graph.node[0].output[0] = ""
    proto.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    assert proven(proto, tmp_path, targets=2, **INT8).op_types.count("DynamicQuantizeLSTM") == 1


def test_a_layer_is_calibrated(tmp_path: Path) -> None:
    """The weight of its inputs by these; that of its state without data, and told."""
    rng = np.random.default_rng(0)
    path = models.write(layer(LAYERS["plain"][0]), tmp_path / "in.onnx")
    samples = [{"x": rng.standard_normal((6, 2, INPUTS)).astype(np.float32)} for _ in range(4)]
    report = models.quantized_by_rtn(path, calib=samples, algorithm="gptq", scheme=Scheme())
    assert [target.tokens for target in report.targets] == [4 * 12, 0]
    assert any("'y[R]'" in warning and "without data" in warning for warning in report.warnings)
    models.compare(path, tmp_path / "out.onnx", tolerance=0.05)


# Left alone


BESIDE = "y, h, c = LSTM <hidden_size = 128> (x, w, r)  v = MatMul (x, u)  z = MatMul (y, t)"


@pytest.mark.parametrize("scheme", [Scheme(activations="float"), Scheme(8, 128, activations="float")])
def test_where_activations_are_not_to_be_rounded(scheme: Scheme, tmp_path: Path) -> None:
    proto = layer(BESIDE, u=grid(INPUTS), t=grid(HIDDEN))
    outcome = proven(proto, tmp_path, targets=2, scheme=scheme, allow_slow=True, tolerance=0.01)
    assert {reason for name, reason in reasons(outcome.report).items() if name == "y"} == {
        "DynamicQuantizeLSTM has one scheme (got int8, per channel, symmetric, activations float). Use int8, per "
        "channel, symmetric, activations int8."
    }
    assert outcome.op_types.count("LSTM") == 1


def test_another_scheme_by_name_is_refused(tmp_path: Path) -> None:
    path = models.write(layer(BESIDE, u=grid(INPUTS), t=grid(HIDDEN)), tmp_path / "in.onnx")
    with pytest.raises(SchemeError, match=r"DynamicQuantizeLSTM has one scheme \(got int4, per channel.*Use int8"):
        models.quantized_by_rtn(path, scheme=Scheme(), schemes={"^y$": {"bits": 4}})


def test_on_another_provider(tmp_path: Path) -> None:
    path = models.write(layer(BESIDE, u=grid(INPUTS), t=grid(HIDDEN)), tmp_path / "in.onnx")
    targets, _ = find(Graph.load(path), (), ())
    rule, target = targets[0]
    with pytest.raises(SchemeError, match=r"DynamicQuantizeLSTM is there on cpu in float32 \(got float32 on cuda\)"):
        rule.kernel("cuda", Scheme(8, "channel", symmetric=True), target)


LEFT_ALONE: dict[str, tuple[str, dict[str, Array], str]] = {
    "small": (
        "y, h, c = LSTM <hidden_size = 64> (x, w, r)",
        weights(hidden=64),
        "a hidden size of 64 is not faster in int8 (from 128 on)",
    ),
    "batches first": (
        "y, h, c = LSTM <hidden_size = 128, layout = 1> (x, w, r)",
        {},
        "its batches come first (layout=1), which DynamicQuantizeLSTM does not know",
    ),
    "float16": (
        "y, h, c = LSTM <hidden_size = 128> (x, w, r)",
        {name: array.astype(np.float16) for name, array in weights().items()},
        "unsupported type: float16 weights (DynamicQuantizeLSTM computes in float32)",
    ),
    "shapes": (
        "y, h, c = LSTM <hidden_size = 128> (x, w, r)",
        {"w": weights()["w"][:, :256]},
        "unsupported shape: weights of [1, 256, 48] and [1, 512, 128]",
    ),
    "computed": (
        "f = Relu (x)  s = ReduceSum <keepdims = 0> (f)  q = Mul (w, s)  y, h, c = LSTM <hidden_size = 128> (x, q, r)",
        {},
        "no constant weight: both inputs are computed at run time",
    ),
}


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_layers_that_are_left_alone(case: str, tmp_path: Path) -> None:
    body, constants, reason = LEFT_ALONE[case]
    path = models.write(layer(body, "", 1, **constants), tmp_path / "in.onnx")
    _, (skip,) = find(Graph.load(path), (), ())
    assert skip.reason == reason


def test_a_layer_whose_caller_chooses(tmp_path: Path) -> None:
    function = """<domain: "local", opset_import: ["" : 17]> some <way> (x, w, r) => (y)
        { y = LSTM <hidden_size = 128, direction: string = @way> (x, w, r) }"""
    body, inputs = 'y = local.some <way = "reverse"> (x, w, r)', f"float[6, 2, {INPUTS}] x"
    domain, y = ', "local" : 1', "float[6, 1, 2, 128] y"
    proto = model(body, x=inputs, y=y, domains=domain, functions=function, constants=weights())
    proto.functions[0].node.insert(0, models.constant(weights()["w"], "w2"))
    proto.functions[0].node.insert(0, models.constant(weights()["r"], "r2"))
    proto.functions[0].node[2].input[1:] = ["w2", "r2"]
    _, (skip,) = find(Graph.load(models.write(proto, tmp_path / "in.onnx")), (), ())
    assert skip.reason.endswith(" chooses its direction")
