"""Nodes that are left alone, each with the reason that the report gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxfq.errors import ModelError
from support import models
from support.models import Array, K, constant, grid, model, proven, reasons

W = grid()
COMPUTED = "no constant weight: both inputs are computed at run time"
QUANTIZED = "already quantized"
FUSED = "fused by ONNX Runtime's optimizer: quantize the model as it was exported, before optimization"
MS = ', "com.microsoft" : 1'


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def eight(array: Array) -> Array:
    return np.asarray(np.clip(np.rint(array * 16), -128, 127), np.int8)


SCALE = np.array(1 / 16, np.float32)
FAKE: dict[str, Array] = {"s": SCALE, "z": np.array(0, np.int8)}

# name: (nodes that make node `skipped`, constants, the reason)
SKIPS: dict[str, tuple[str, dict[str, Array], str]] = {
    "computed": ("t = Transpose (x)  skipped = MatMul (x, t)", {}, COMPUTED),
    "computed Gemm": ("skipped = Gemm <transB = 1> (x, x)", {}, COMPUTED),
    "both": (
        "skipped = MatMul (l, w)",
        {"l": grid(32, 64), "w": W},
        "both inputs are constant: nothing is computed at run time",
    ),
    "4-D": (
        "skipped = MatMul (x, v)",
        {"v": np.stack([W, W])[np.newaxis]},
        "unsupported shape: the weight is a batch of matrices [1, 2, 64, 32], and has more than 3 dimensions",
    ),
    "3-D on the left": (
        "t = Transpose (x)  skipped = MatMul (v, t)",
        {"v": np.stack([W.T, W.T])},
        "unsupported shape: the weight is a batch of matrices [2, 32, 64], and the left operand",
    ),
    "several of a stack": (
        "g = Gather (v, some)  skipped = MatMul (x, g)",
        {"v": np.stack([W, W, W]), "some": np.array([0, 2])},
        "no constant weight: Gather makes it from constants, fold these first",
    ),
    "every other row": (
        "g = Slice (v, from, to, axes, by)  skipped = MatMul (x, g)",
        {"v": np.repeat(W, 2, axis=0), "from": np.array([0]), "to": np.array([2 * K]), "axes": np.array([0]),
         "by": np.array([2])},
        "no constant weight: Slice makes it from constants, fold these first",
    ),
    "1-D": (
        "skipped = MatMul (x, v)",
        {"v": grid(K, 1).ravel()},
        "unsupported shape: the weight has 1 dimensions [64], not 2",
    ),
    "double": (
        "d = Cast <to = 11> (x)  skipped = MatMul (d, v)",
        {"v": W.astype(np.float64)},
        "unsupported type: float64 weights (MatMulNBits computes in float32, float16 or bfloat16)",
    ),
    "integers": (
        "d = Cast <to = 6> (x)  skipped = MatMul (d, v)",
        {"v": W.astype(np.int32)},
        "unsupported type: int32 weights (MatMulNBits computes in float32, float16 or bfloat16)",
    ),
    "small": (
        "skipped = MatMul (x, v)",
        {"v": grid(K, 15)},
        "too small: 960 weights (fewer than 1024 are not worth it)",
    ),
    "empty": (
        "skipped = MatMul (x, v)",
        {"v": np.empty((K, 0), np.float32)},
        "too small: 0 weights (fewer than 1024 are not worth it)",
    ),
    "folding": (
        "v = Mul (w2, s)  skipped = MatMul (x, v)",
        {"w2": W, "s": SCALE},
        "no constant weight: Mul makes it from constants, fold these first",
    ),
    "folding behind a transposition": (
        "v = Concat <axis = 0> (w2, w2)  t = Transpose (v)  skipped = MatMul (x, t)",
        {"w2": grid(16, 64)},
        "no constant weight: Concat makes it from constants, fold these first",
    ),
    "computed reshape": (
        "n = Shape (x)  e = Slice (n, one, two)  shape = Concat <axis = 0> (e, minus)  v = Reshape (w2, shape)"
        "  skipped = MatMul (x, v)",
        {"w2": W, "one": ints(1), "two": ints(2), "minus": ints(-1)},
        "no constant weight: Reshape before it cannot be followed",
    ),
    "cast from integers": (
        "f = Cast <to = 1> (v)  skipped = MatMul (x, f)",
        {"v": eight(W)},
        "already quantized: its weight is cast from int8",
    ),
    "codes, cast and scaled": (
        "f = Cast <to = 1> (q)  v = Mul (f, s)  skipped = MatMul (x, v)",
        {"q": eight(W), "s": SCALE},
        "already quantized: its weight is cast from int8",
    ),
    "codes, cast, moved and scaled": (
        "f = Cast <to = 1> (q)  g = Cast <to = 1> (z)  d = Sub (f, g)  u = Mul (d, s)  v = Transpose (u)"
        "  skipped = MatMul (x, v)",
        {"q": (eight(W).T.astype(np.int16) + 128).astype(np.uint8), "s": SCALE, "z": np.array(128, np.uint8)},
        "already quantized: its weight is cast from uint8",
    ),
    "codes and one more factor behind DequantizeLinear": (
        "d = DequantizeLinear (q, s)  v = Mul (d, s)  skipped = MatMul (x, v)",
        {"q": eight(W), "s": SCALE},
        "already quantized: its weight comes from DequantizeLinear",
    ),
    "a factor that is cast from integers is no code": (
        "f = Cast <to = 1> (n)  v = Mul (w2, f)  skipped = MatMul (x, v)",
        {"w2": W, "n": np.array(2, np.int8)},
        "no constant weight: Mul makes it from constants, fold these first",
    ),
    "cast to integers": (
        "i = Cast <to = 6> (x)  v = Cast <to = 6> (w2)  skipped = MatMul (i, v)",
        {"w2": W},
        "no constant weight: a Cast from float32 to int32 is not followed",
    ),
    "DequantizeLinear": (
        "v = DequantizeLinear (q, s)  skipped = MatMul (x, v)",
        {"q": eight(W), "s": SCALE},
        "already quantized: its weight comes from DequantizeLinear",
    ),
    "DequantizeLinear behind a transposition": (
        "d = DequantizeLinear (q, s)  v = Transpose (d)  skipped = MatMul (x, v)",
        {"q": eight(W.T), "s": SCALE},
        "already quantized: its weight comes from DequantizeLinear",
    ),
    "QuantizeLinear and DequantizeLinear": (
        "q = QuantizeLinear (w2, s, z)  v = DequantizeLinear (q, s, z)  skipped = MatMul (x, v)",
        {"w2": W, **FAKE},
        "already quantized: its weight comes from DequantizeLinear",
    ),
    "quantized activations on both sides": (
        "q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  t = Transpose (d)  skipped = MatMul (d, t)",
        FAKE,
        COMPUTED,
    ),
    "MatMulInteger": (
        "q, qs, qz = DynamicQuantizeLinear (x)  skipped = MatMulInteger (q, v, qz)",
        {"v": eight(W)},
        QUANTIZED,
    ),
    "QLinearMatMul": (
        "q = QuantizeLinear (x, s, z)  skipped = QLinearMatMul (q, s, z, v, s, z, s, z)",
        {"v": eight(W), **FAKE},
        QUANTIZED,
    ),
    "sparse Constant": ("skipped = MatMul (x, v)", {}, "the weight's Constant node holds no dense tensor"),
}  # fmt: skip


@pytest.mark.parametrize("case", SKIPS)
def test_skips(case: str, tmp_path: Path) -> None:
    body, constants, reason = SKIPS[case]
    proto = model(f"{body}  y = MatMul (x, w)", domains=MS, constants={"w": W} | constants)
    if case == "sparse Constant":
        values, where = models.tensor(W.ravel()[:3], ""), models.tensor(ints(0, 5, 100), "")
        sparse = onnx.helper.make_sparse_tensor(values, where, [64, 32])
        proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["v"], sparse_value=sparse))
    before = onnx.ModelProto.FromString(proto.SerializeToString())
    outcome = proven(proto, tmp_path)
    assert reasons(outcome.report) == {"skipped": reason}
    (skip,) = outcome.report.skipped
    assert skip.quantized == reason.startswith("already quantized")
    kept = {n.output[0]: n for n in outcome.model.graph.node}
    assert [kept[n.output[0]] for n in before.graph.node[:-1]] == list(before.graph.node[:-1])
    for tensor in before.graph.initializer:
        assert tensor.name == "w" or tensor == outcome.initializers[tensor.name]


def test_sparse_initializers(tmp_path: Path) -> None:
    proto = model("skipped = MatMul (x, v)  y = MatMul (x, w)", w=W)
    sparse = onnx.helper.make_sparse_tensor(
        models.tensor(W.ravel()[:3], "v"), models.tensor(ints(0, 5, 7), ""), [64, 32]
    )
    proto.graph.sparse_initializer.append(sparse)
    outcome = proven(proto, tmp_path)
    assert reasons(outcome.report) == {"skipped": "the weight 'v' is stored sparse"}
    assert outcome.model.graph.sparse_initializer[0] == sparse


def with_inputs(ir: int) -> onnx.ModelProto:
    """A model whose weight is a graph input too, as IR version 3 wants it."""
    return model("y = MatMul (x, w)", x="float[M, 64] x, float[64, 32] w", ir=ir, opset=8, w=W)


def test_initializers_that_callers_may_replace(tmp_path: Path) -> None:
    proto = with_inputs(4)
    proto.graph.node.append(onnx.helper.make_node("MatMul", ["x", "fixed"], ["y2"]))
    proto.graph.initializer.append(models.tensor(W, "fixed"))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("y2", 1, ["M", 32]))
    outcome = proven(proto, tmp_path)
    reason = "the weight is a graph input too, whose value callers may replace (`constant_inputs=True`: none does)"
    assert reasons(outcome.report) == {"y": reason}
    assert [i.name for i in outcome.model.graph.input] == ["x", "w"]


@pytest.mark.parametrize("ir", [3, 4, 8])
def test_the_values_of_inputs_are_constants_where_the_user_says_so(ir: int, tmp_path: Path) -> None:
    """What the reason names as the remedy works, and only then are the inputs gone."""
    path = models.write(with_inputs(ir), tmp_path / "in.onnx")
    if ir > 3:
        with pytest.raises(ModelError, match=r"1x the weight is a graph input too.*`constant_inputs=True`"):
            models.quantized_by_rtn(path)
    outcome = proven(path, tmp_path, constant_inputs=True)
    assert outcome.op_types == ["MatMulNBits"]
    assert [i.name for i in outcome.model.graph.input] == ["x"]
    assert outcome.report.settings["constant_inputs"] is True


def test_a_shape_that_callers_may_replace(tmp_path: Path) -> None:
    body = "v = Reshape (w, shape)  a = MatMul (x, v)  b = MatMul (x, u)  y = Add (a, b)"
    proto = model(body, x="float[M, 64] x, int64[2] shape", w=W, u=W, shape=ints(64, 32))
    outcome = proven(proto, tmp_path)
    assert reasons(outcome.report) == {"a": "no constant weight: Reshape before it cannot be followed"}


def test_ir_version_3_knows_no_replaceable_initializers(tmp_path: Path) -> None:
    proto = with_inputs(3)
    proto.graph.node.insert(0, onnx.helper.make_node("Mul", ["x", "f"], ["x2"]))
    proto.graph.node[1].input[0] = "x2"
    proto.graph.input.append(onnx.helper.make_tensor_value_info("f", 1, [1]))
    proto.graph.initializer.append(models.tensor(np.array([2], np.float32), "f"))
    outcome = proven(proto, tmp_path)
    assert [i.name for i in outcome.model.graph.input] == ["x"]
    assert outcome.model.ir_version == 4


HEADER = '<domain: "local", opset_import: ["" : 17{}]>'


def functional(call: str, *functions: str, **constants: Array) -> onnx.ModelProto:
    return model(call, domains=', "local" : 1', functions="\n".join(functions), constants=constants)


def test_a_weight_that_is_a_functions_argument(tmp_path: Path) -> None:
    function = f"{HEADER.format('')} linear (a, v) => (b) {{ b = MatMul (a, v) }}"
    outcome = proven(functional("a = local.linear (x, w)  c = MatMul (x, w)  y = Add (a, c)", function, w=W), tmp_path)
    label = "function 'local:linear'"
    assert reasons(outcome.report) == {"b": f"the weight is an argument of {label}: inline the function first"}
    assert "w" in outcome.initializers


def test_settings_that_a_functions_caller_chooses(tmp_path: Path) -> None:
    header = HEADER.format("")
    gemm = f"{header} scaled <factor> (a) => (b) {{ b = Gemm <alpha : float = @factor> (a, v) }}"
    turned = f"{header} turned <order> (a) => (c) {{ t = Transpose <perm : ints = @order> (v)  c = MatMul (a, t) }}"
    given = f"{header} given <what> (a) => (d) {{ t = Constant <value : tensor = @what> ()  d = MatMul (a, t) }}"
    body = """
        p = local.scaled <factor = 0.5> (x)
        q = local.turned <order = [0, 1]> (x)
        r = local.given (x)
        s = MatMul (x, w)
        y = Sum (p, q, r, s)
    """
    proto = functional(body, gemm, turned, given, w=W)
    for function in proto.functions[:2]:
        function.node.insert(0, constant(W, "v"))
    call = proto.graph.node[2]
    call.attribute.append(onnx.helper.make_attribute("what", models.tensor(W, "")))
    outcome = proven(proto, tmp_path)
    assert reasons(outcome.report) == {
        "b": "the caller of function 'local:scaled' chooses its alpha",
        "c": "no constant weight: the caller of function 'local:turned' chooses perm of Transpose",
        "d": "no constant weight: the caller of function 'local:given' chooses value of Constant",
    }


@pytest.mark.parametrize(
    "op_type",
    ["FusedGemm", "Attention", "EmbedLayerNormalization", "MatMulBnb4", "DynamicQuantizeMatMul", "QAttention", "QMoE"],
)
def test_microsofts_operators_are_named(op_type: str, tmp_path: Path) -> None:
    proto = model(f"z = com.microsoft.{op_type} (x, w)  y = MatMul (x, w)", domains=MS, w=W)
    report = models.quantized_by_rtn(models.write(proto, tmp_path / "in.onnx"))
    assert reasons(report) == {
        "z": FUSED if op_type in ("FusedGemm", "Attention", "EmbedLayerNormalization") else QUANTIZED
    }
    assert onnx.load(tmp_path / "out.onnx").graph.node[0] == proto.graph.node[0]


def test_fused_nodes_of_two_activations_have_no_weight_to_report(tmp_path: Path) -> None:
    body = (
        "t = Transpose (x)  z = com.microsoft.FusedMatMul (x, t)  v = com.microsoft.FusedGemm (x, t)  y = MatMul (x, w)"
    )
    report = models.quantized_by_rtn(models.write(model(body, domains=MS, w=W), tmp_path / "in.onnx"))
    assert reasons(report) == {"z": COMPUTED}
