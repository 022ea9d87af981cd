"""Weights that are quantized already are recognised, however a model spells them, and whatever else it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import pytest

import onnxfq
from onnxfq.errors import ModelError
from support import models
from support.models import Array, grid, model, tensor
from support.tiny import quantize

MS = ', "com.microsoft" : 1'
RNG = np.random.default_rng(0)
CODES = RNG.integers(-127, 128, (64, 32)).astype(np.int8)
BYTES = (CODES.astype(np.int16) + 128).astype(np.uint8)
SCALE, ROW = np.array(0.01, np.float32), np.full(32, 0.01, np.float32)
SCALES = {"s": SCALE, "z": np.array(0, np.int8)}
TABLE = RNG.integers(-127, 128, (600, 64)).astype(np.int8)


def four(kind: int) -> onnx.TensorProto:
    """Codes [64, 32] of four bits."""
    low = 0 if kind == onnx.TensorProto.UINT4 else -8
    return onnx.helper.make_tensor("q", kind, (64, 32), [int(v) for v in (CODES.ravel() % 16) + low])


# nodes that make `y` [M, 32] of `x` [M, 64], constants, operator set
SPELLINGS: dict[str, tuple[str, dict[str, Array | onnx.TensorProto], int]] = {
    "QDQ": ("w = DequantizeLinear (q, s)  y = MatMul (x, w)", {"q": CODES, "s": SCALE}, 17),
    "QDQ per channel": ("w = DequantizeLinear <axis = 1> (q, r)  y = MatMul (x, w)", {"q": CODES, "r": ROW}, 17),
    "QDQ with zero points": (
        "w = DequantizeLinear (q, s, z)  y = MatMul (x, w)",
        {"q": BYTES, "s": SCALE, "z": np.array(128, np.uint8)},
        17,
    ),
    "QDQ in blocks": (
        "w = DequantizeLinear <axis = 0, block_size = 32> (q, b)  y = MatMul (x, w)",
        {"q": CODES, "b": np.full((2, 32), 0.01, np.float32)},
        21,
    ),
    "QDQ of four bits": (
        "w = DequantizeLinear (q, s)  y = MatMul (x, w)",
        {"q": four(onnx.TensorProto.UINT4), "s": SCALE},
        21,
    ),
    "QDQ of four bits with a sign, in blocks": (
        "w = DequantizeLinear <axis = 0, block_size = 32> (q, b)  y = MatMul (x, w)",
        {"q": four(onnx.TensorProto.INT4), "b": np.full((2, 32), 0.01, np.float32)},
        21,
    ),
    "QDQ on both sides": (
        "a = QuantizeLinear (x, s, z)  b = DequantizeLinear (a, s, z)  w = DequantizeLinear (q, s)  y = MatMul (b, w)",
        {"q": CODES, **SCALES},
        17,
    ),
    "QDQ of Gemm": ("w = DequantizeLinear (q, s)  y = Gemm <transB = 1> (x, w)", {"q": CODES.T, "s": SCALE}, 17),
    "QDQ of Einsum": (
        'w = DequantizeLinear (q, s)  y = Einsum <equation = "md,df->mf"> (x, w)',
        {"q": CODES, "s": SCALE},
        17,
    ),
    "QDQ behind Transpose, Reshape and Cast": (
        "d = DequantizeLinear (q, s)  t = Transpose (d)  r = Reshape (t, n)  c = Cast <to = 11> (r)"
        "  w = Cast <to = 1> (c)  y = MatMul (x, w)",
        {"q": CODES.T.copy(), "s": SCALE, "n": np.array([64, 32])},
        17,
    ),
    "QDQ before a transposition of codes": (
        "t = Transpose (q)  w = DequantizeLinear (t, s)  y = MatMul (x, w)",
        {"q": CODES.T.copy(), "s": SCALE},
        17,
    ),
    "QDQ of the left operand": (
        "t = Transpose (x)  w = DequantizeLinear (q, s)  m = MatMul (w, t)  y = Transpose (m)",
        {"q": CODES.T.copy(), "s": SCALE},
        17,
    ),
    "Cast": ("w = Cast <to = 1> (q)  y = MatMul (x, w)", {"q": CODES}, 17),
    "Cast and Mul": ("f = Cast <to = 1> (q)  w = Mul (f, r)  y = MatMul (x, w)", {"q": CODES, "r": ROW}, 17),
    "Cast, Sub and Mul": (
        "f = Cast <to = 1> (q)  d = Sub (f, o)  w = Mul (d, r)  y = MatMul (x, w)",
        {"q": BYTES, "o": np.full(32, 128, np.float32), "r": ROW},
        17,
    ),
    "Cast, Mul and Transpose": (
        "f = Cast <to = 1> (q)  m = Mul (r, f)  w = Transpose (m)  y = MatMul (x, w)",
        {"q": CODES.T.copy(), "r": SCALE},
        17,
    ),
    "Cast and Mul in blocks": (
        "f = Cast <to = 1> (q)  m = Mul (f, b)  w = Reshape (m, n)  y = MatMul (x, w)",
        {"q": CODES.reshape(2, 32, 32), "b": np.full((2, 1, 32), 0.01, np.float32), "n": np.array([64, 32])},
        17,
    ),
    "two codes in a byte": (
        "h = BitShift <direction = 'RIGHT'> (q, four)  l = Mod (q, sixteen)  c = Concat <axis = 0> (h, l)"
        "  f = Cast <to = 1> (c)  w = Mul (f, s)  y = MatMul (x, w)".replace("'", '"'),
        {"q": BYTES[:32], "four": np.array(4, np.uint8), "sixteen": np.array(16, np.uint8), "s": SCALE},
        17,
    ),
    "a table of values": (
        "i = Cast <to = 7> (q)  w = Gather (values, i)  y = MatMul (x, w)",
        {"q": BYTES, "values": np.linspace(-1, 1, 256, dtype=np.float32)},
        17,
    ),
    "MatMulInteger": (
        "q, qs, qz = DynamicQuantizeLinear (x)  i = MatMulInteger (q, v, qz)  f = Cast <to = 1> (i)  y = Mul (f, qs)",
        {"v": CODES},
        17,
    ),
    "QLinearMatMul": (
        "q = QuantizeLinear (x, s, z)  m = QLinearMatMul (q, s, z, v, s, z, s, z)  y = DequantizeLinear (m, s, z)",
        {"v": CODES, **SCALES},
        17,
    ),
    "DynamicQuantizeMatMul": ("y = com.microsoft.DynamicQuantizeMatMul (x, q, s)", {"q": CODES, "s": SCALE}, 17),
    "MatMulBnb4": (
        "y = com.microsoft.MatMulBnb4 <K = 64, N = 32, block_size = 64, quant_type = 1> (x, q, b)",
        {"q": BYTES.ravel()[:1024], "b": np.full(32, 0.01, np.float32)},
        17,
    ),
    "a convolution": (
        "u = Unsqueeze (x, two)  w = DequantizeLinear (q, s)  c = Conv (u, w)  y = Squeeze (c, two)",
        {"q": CODES.T.reshape(32, 64, 1), "s": SCALE, "two": np.array([2])},
        17,
    ),
    "a convolution, cast and scaled": (
        "u = Unsqueeze (x, two)  f = Cast <to = 1> (q)  w = Mul (f, s)  c = Conv (u, w)  y = Squeeze (c, two)",
        {"q": CODES.T.reshape(32, 64, 1), "s": SCALE, "two": np.array([2])},
        17,
    ),
    "ConvInteger": (
        "q, qs, qz = DynamicQuantizeLinear (x)  u = Unsqueeze (q, two)  i = ConvInteger (u, v, qz)"
        "  c = Squeeze (i, two)  f = Cast <to = 1> (c)  y = Mul (f, qs)",
        {"v": BYTES.T.reshape(32, 64, 1), "two": np.array([2])},
        17,
    ),
}  # fmt: skip
EMBEDDINGS: dict[str, tuple[str, dict[str, Array]]] = {
    "QDQ": ("t = DequantizeLinear (q, s)  y = Gather (t, ids)", {"q": TABLE, "s": SCALE}),
    "codes looked up": ("g = Gather (q, ids)  f = Cast <to = 1> (g)  y = Mul (f, s)", {"q": TABLE, "s": SCALE}),
    "Cast and Mul": ("f = Cast <to = 1> (q)  t = Mul (f, s)  y = Gather (t, ids)", {"q": TABLE, "s": SCALE}),
}  # fmt: skip


def built(body: str, constants: dict[str, Array | onnx.TensorProto], opset: int = 17, **more: Any) -> onnx.ModelProto:
    proto = model(body, opset=opset, ir=10 if opset > 20 else 8, domains=MS, **more)
    for name, value in constants.items():
        proto.graph.initializer.append(tensor(value, name) if isinstance(value, np.ndarray) else value)
    return proto


def assert_left_alone(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, before = source.with_name("out.onnx"), source.read_bytes()
    models.session(source)  # the spelling is one that ONNX Runtime takes
    assert quantize(source, "-o", output) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "is already quantized: nothing was left to do, and nothing was written." in told
    assert not output.exists()
    assert source.read_bytes() == before
    report = onnxfq.inspect(source)
    assert report.warnings == ("The model is already quantized: nothing was left to do.",)
    assert sum(c.bytes for c in report.source_contents if c.is_quantized) >= 1024
    assert not any(c.is_float_weight for c in report.source_contents)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings(spelling: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body, constants, opset = SPELLINGS[spelling]
    assert_left_alone(models.write(built(body, constants, opset), tmp_path / "in.onnx"), capsys)


@pytest.mark.parametrize("spelling", EMBEDDINGS)
def test_spellings_of_embeddings(spelling: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body, constants = EMBEDDINGS[spelling]
    proto = built(body, constants, x="int64[M] ids", y="float[M, 64] y")
    assert_left_alone(models.write(proto, tmp_path / "in.onnx"), capsys)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_what_is_left_in_floating_point_is_quantized(spelling: str, tmp_path: Path) -> None:
    """Nodes that are quantized stay, the others become targets, and the report says so."""
    body, constants, opset = SPELLINGS[spelling]
    proto = built(f"{body}  p = MatMul (y, v2)", {**constants, "v2": grid(32, 64)}, opset)
    proto.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("p", 1, ["M", 64]))
    outcome = models.proven(proto, tmp_path)
    assert [target.name for target in outcome.report.targets] == ["p"]
    assert outcome.op_types[:-1] == [node.op_type for node in proto.graph.node[:-1]]
    stay = "stay as they are."
    assert [w for w in outcome.report.warnings if stay in w and "already quantized" in w]
    kept = {t.name: t for t in proto.graph.initializer if t.name != "v2"}
    assert {name: outcome.initializers[name] for name in kept} == kept


# What looks like codes and is none: nodes that make the weight `w`, constants.
NO_CODES: dict[str, tuple[str, dict[str, Array]]] = {
    "half precision": ("w = Cast <to = 1> (h)", {"h": grid().astype(np.float16)}),
    "a mask of small integers": ("f = Cast <to = 1> (q)  w = Mul (h, f)", {"h": grid(), "q": np.sign(BYTES)}),
    "a matrix of flags": ("w = Cast <to = 1> (h)", {"h": grid() > 0}),
    "whole numbers": ("w = Cast <to = 1> (h)", {"h": CODES.astype(np.int64)}),
}  # fmt: skip


@pytest.mark.parametrize("spelling", NO_CODES)
def test_what_is_no_code(spelling: str, tmp_path: Path) -> None:
    body, constants = NO_CODES[spelling]
    source = models.write(built(f"{body}  y = MatMul (x, w)", {**constants}), tmp_path / "in.onnx")
    if spelling == "half precision":
        assert len(onnxfq.inspect(source).targets) == 1
        return
    with pytest.raises(ModelError, match=r"Nothing to quantize .*no constant weight"):
        onnxfq.quantize(source)
    assert not any(c.is_quantized for c in onnxfq.inspect(source).source_contents)


def test_a_mask_in_bytes_is_no_weight(tmp_path: Path) -> None:
    """Old exports of GPT-2 keep their causal mask so."""
    body = "f = Cast <to = 1> (mask)  m = Mul (f, s)  a = Add (x, m)  y = Relu (a)"
    mask = np.tril(np.ones((64, 64), np.uint8))
    source = models.write(built(body, {"mask": mask, "s": SCALE}, x="float[64, 64] x", y="float[64, 64] y"),
                          tmp_path / "in.onnx")  # fmt: skip
    assert not any(c.is_quantized for c in onnxfq.inspect(source).source_contents)
    with pytest.raises(ModelError, match="Nothing to quantize"):
        onnxfq.quantize(source)
