"""What an error message tells people to do works: each is followed to the end."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import pytest

from onnxfq.errors import OnnxfqError, OperatorError
from onnxfq.pipeline import quantize
from support.models import Array, grid, model, write

W = grid(64, 64)
X: dict[str, Array] = {"x": np.random.default_rng(0).standard_normal((40, 64)).astype(np.float32)}
CALIB: dict[str, Any] = {"calib": [X]}
WITHOUT_RUNNING = r"To quantize it without running it: `validate=False`, and no `calib`\.$"
WITHOUT_COMPARING = r"To quantize it without comparing it with the original: `validate=False`\.$"
NOT_COMPARED: dict[str, Any] = {"validate": False}


def foreign() -> onnx.ModelProto:
    body = "a = MatMul (x, w)  b = com.example.Fancy (a)  y = MatMul (b, v)"
    return model(body, y="float[M, 64] y", domains=', "com.example" : 1', w=W, v=W)


def foreign_in_a_function() -> onnx.ModelProto:
    function = (
        '<domain: "local", opset_import: ["" : 17, "com.example" : 1]> f (a) => (b) { b = com.example.Fancy (a) }'
    )
    domains = ', "com.example" : 1, "local" : 1'
    return model("a = MatMul (x, w)  b = local.f (a)  y = MatMul (b, v)", y="float[M, 64] y", domains=domains,
                 functions=function, w=W, v=W)  # fmt: skip


def words() -> onnx.ModelProto:
    encoder = 'ai.onnx.ml.LabelEncoder <keys_strings = ["a"], values_int64s = [1]>'
    body = f"i = {encoder} (x)  e = Gather (t, i)  y = MatMul (e, w)"
    return model(body, x="string[M] x", y="float[M, 64] y", domains=', "ai.onnx.ml" : 2', t=W[:3], w=W)


def sequence() -> onnx.ModelProto:
    proto = model("e = SequenceAt (x, i)  y = MatMul (e, w)", x="seq(float[M, 64]) x", y="float[M, 64] y", w=W)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0), "i"))
    return proto


def unknown_rank() -> onnx.ModelProto:
    proto = model("y = MatMul (x, w)", y="float[M, 64] y", w=W)
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    return proto


def replaceable() -> onnx.ModelProto:
    return model("y = MatMul (x, w)", x="float[M, 64] x, float[64, 64] w", y="float[M, 64] y", w=W)


# the model, what fails, what the message tells, and what it tells to do
REMEDIES: dict[str, tuple[onnx.ModelProto, dict[str, Any], str, dict[str, Any]]] = {
    "foreign operator": (foreign(), {}, WITHOUT_COMPARING, NOT_COMPARED),
    "foreign operator, with data": (foreign(), CALIB, WITHOUT_RUNNING, NOT_COMPARED),
    "foreign operator, with data alone": (foreign(), CALIB | NOT_COMPARED, WITHOUT_RUNNING, NOT_COMPARED),
    "foreign operator, in pieces": (foreign(), {"memory": 0}, WITHOUT_COMPARING, NOT_COMPARED),
    "foreign operator in a function": (foreign_in_a_function(), CALIB, WITHOUT_RUNNING, NOT_COMPARED),
    "replaceable": (replaceable(), {}, r"`constant_inputs=True`", {"constant_inputs": True}),
}


@pytest.mark.parametrize("case", REMEDIES)
def test_the_remedy_works(case: str, tmp_path: Path) -> None:
    proto, failing, message, remedy = REMEDIES[case]
    path, output = write(proto, tmp_path / "in.onnx"), tmp_path / "out.onnx"
    with pytest.raises(OnnxfqError, match=message):
        quantize(path, output, **failing)
    report = quantize(path, output, **remedy)
    assert report.targets
    assert any(node.op_type == "MatMulNBits" for node in onnx.load(output).graph.node)


# the model, what the note on the missing comparison tells to give, and that
NOT_MADE_UP: dict[str, tuple[onnx.ModelProto, str, dict[str, Any]]] = {
    "words": (words(), r"Give inputs with `calib=FILE\.npz`", {"calib": [{"x": np.array(["a", "a"])}]}),
    "sequence": (sequence(), r"No file of data holds such values: skip .* `validate=False`\.$", NOT_COMPARED),
    "rank": (unknown_rank(), r"Give inputs with `calib=FILE\.npz`", CALIB),
}


@pytest.mark.parametrize("case", NOT_MADE_UP)
def test_a_model_for_which_no_inputs_can_be_made_up_is_written_and_the_remedy_works(case: str, tmp_path: Path) -> None:
    proto, told, remedy = NOT_MADE_UP[case]
    path, output = write(proto, tmp_path / "in.onnx"), tmp_path / "out.onnx"
    report = quantize(path, output, max_error=1)
    assert report.targets
    assert not report.outputs
    assert [gate.passed for gate in report.gates] == [False]
    (note,) = [warning for warning in report.warnings if warning.startswith("NOT COMPARED")]
    assert re.search(told, note)
    again = quantize(path, output, **remedy)
    assert again.targets
    assert bool(again.outputs) == ("calib" in remedy)
    assert not any(warning.startswith("NOT COMPARED") for warning in again.warnings)


@pytest.mark.parametrize("settings", [{}, CALIB, CALIB | NOT_COMPARED])
def test_the_operator_that_is_missing_is_named(settings: dict[str, Any], tmp_path: Path) -> None:
    message = r"ONNX Runtime [\d.]+ has no operator com\.example:Fancy, without which .* cannot run"
    with pytest.raises(OperatorError if "validate" in settings else OnnxfqError, match=message):
        quantize(write(foreign(), tmp_path / "in.onnx"), tmp_path / "out.onnx", **settings)
