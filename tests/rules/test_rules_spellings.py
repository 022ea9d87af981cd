"""Every way in which exporters spell a constant weight leads to the same product."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxfq.errors import ModelError, SchemeError
from support import models
from support.models import BFLOAT16, Array, K, N, grid, model, proven

W = grid()


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


# Nodes that make `w` [64, 32] out of the stored tensor `s` and shapes; what is stored.
SPELLINGS: dict[str, tuple[str, dict[str, Array]]] = {
    "plain": ("", {"w": W}),
    "transpose": ("w = Transpose <perm = [1, 0]> (s)", {"s": W.T}),
    "transpose by default": ("w = Transpose (s)", {"s": W.T}),
    "transpose twice": ("t = Transpose (s)  w = Transpose <perm = [1, 0]> (t)", {"s": W}),
    "transpose that does nothing": ("w = Transpose <perm = [0, 1]> (s)", {"s": W}),
    "cast from float16": ("w = Cast <to = 1> (s)", {"s": W.astype(np.float16)}),
    "cast from bfloat16": ("w = Cast <to = 1> (s)", {"s": W.astype(BFLOAT16)}),
    "cast from double": ("w = Cast <to = 1> (s)", {"s": W.astype(np.float64)}),
    "cast to the same type": ("w = Cast <to = 1> (s)", {"s": W}),
    "cast there and back": ("h = Cast <to = 10> (s)  w = Cast <to = 1> (h)", {"s": W}),
    "identity": ("w = Identity (s)", {"s": W}),
    "reshape": ("w = Reshape (s, shape)", {"s": W.reshape(8, 8, N), "shape": ints(K, N)}),
    "reshape with -1": ("w = Reshape (s, shape)", {"s": W.reshape(8, 8, N), "shape": ints(-1, N)}),
    "reshape with 0": ("w = Reshape (s, shape)", {"s": W.reshape(K, 4, 8), "shape": ints(0, -1)}),
    "reshape with allowzero": (
        "w = Reshape <allowzero = 1> (s, shape)",
        {"s": W.reshape(K, 4, 8), "shape": ints(K, -1)},
    ),
    "reshape to a literal": (
        "shape = Constant <value_ints = [64, 32]> ()  w = Reshape (s, shape)",
        {"s": W.reshape(8, 8, N)},
    ),
    "reshape to a shape behind a cast": (
        "shape = Cast <to = 7> (short)  w = Reshape (s, shape)",
        {"s": W.reshape(8, 8, N), "short": np.array([K, N], np.int32)},
    ),
    "squeeze": ("w = Squeeze (s, axes)", {"s": W[None, :, None], "axes": ints(0, 2)}),
    "squeeze from behind": ("w = Squeeze (s, axes)", {"s": W[None, :, None], "axes": ints(-2, -4)}),
    "squeeze everything": ("w = Squeeze (s)", {"s": W[None, :, None]}),
    "unsqueeze, then squeeze": (
        "u = Unsqueeze (s, axes)  w = Squeeze (u, axes)",
        {"s": W, "axes": ints(-1, 1)},
    ),
    "unsqueeze a row": (
        "u = Unsqueeze (s, axes)  w = Reshape (u, shape)",
        {"s": W.ravel(), "axes": ints(0), "shape": ints(K, N)},
    ),
    "flatten": ("w = Flatten (s)", {"s": W.reshape(K, 4, 8)}),
    "flatten at 2": ("w = Flatten <axis = 2> (s)", {"s": W.reshape(8, 8, N)}),
    "flatten from behind": ("w = Flatten <axis = -1> (s)", {"s": W.reshape(8, 8, N)}),
    "3-D transpose": (
        "t = Transpose <perm = [2, 0, 1]> (s)  w = Reshape (t, shape)",
        {"s": np.ascontiguousarray(W.reshape(8, 8, N).transpose(1, 2, 0)), "shape": ints(K, N)},
    ),
    "long chain": (
        "a = Squeeze (s, axes)  b = Cast <to = 1> (a)  c = Identity (b)  d = Reshape (c, shape)  w = Transpose (d)",
        {"s": W.T.reshape(1, 4, 8, K).astype(np.float16), "axes": ints(0), "shape": ints(-1, K)},
    ),
}

STACK = np.stack([grid(seed=1), W, grid(seed=2)])
SPELLINGS |= {
    "one of a stack": ("w = Gather (s, one)", {"s": STACK, "one": np.array(1)}),
    "one of a stack, counted from behind": ("w = Gather (s, one)", {"s": STACK, "one": np.array(-2, np.int32)}),
    "one of a stack that keeps its axis": (
        "g = Gather (s, one)  w = Squeeze (g, axes)",
        {"s": STACK, "one": ints(1), "axes": ints(0)},
    ),
    "one of a stack along the last axis": (
        "w = Gather <axis = -1> (s, one)",
        {"s": np.ascontiguousarray(STACK.transpose(1, 2, 0)), "one": np.array(1)},
    ),
    "a slice of a stack": (
        "g = Slice (s, from, to, axes, by)  w = Squeeze (g, axes)",
        {"s": STACK, "from": ints(1), "to": ints(2), "axes": ints(0), "by": ints(1)},
    ),
    "slices by rows and columns": (
        "w = Slice (s, from, to)",
        {"s": np.pad(W, ((2, 1), (3, 4))), "from": ints(2, 3), "to": ints(K + 2, -4)},
    ),
    "an output of Split": ("a, w, b = Split <axis = 1> (s, sizes)", {
        "s": np.concatenate([grid(n=8), W, grid(n=16)], axis=1), "sizes": ints(8, N, 16)}),
    "an output of Split into equal parts": (
        "a, b, c = Split <axis = 0> (s)  t = Squeeze (b, axes)  u = Transpose (t)  w = Transpose (u)",
        {"s": STACK, "axes": ints(0)},
    ),
    "a part of a reshaped stack": (
        "r = Reshape (s, shape)  t = Transpose <perm = [0, 2, 1]> (r)  g = Gather (t, one)  w = Transpose (g)",
        {"s": STACK.reshape(3 * K, N), "shape": ints(3, K, N), "one": np.array(1)},
    ),
    "parts of parts": (
        "a = Slice (s, one, far)  b = Slice (a, zero, one)  h = Cast <to = 1> (b)  w = Reshape (h, shape)",
        {"s": STACK.astype(np.float16), "one": ints(1), "far": ints(2**40), "zero": ints(0), "shape": ints(K, N)},
    ),
}  # fmt: skip

STORAGES = ("raw", "typed", "node", "external", "files with gaps")


def stored(proto: onnx.ModelProto, storage: str, folder: Path) -> Path:
    """Write a model with its initializers in one of the ways in which files hold tensors."""
    path = folder / "in.onnx"
    if storage == "external":
        return models.write_external(proto, path)
    if storage == "files with gaps":
        return models.write_external(proto, path, files=2, padding=100)
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    if storage == "typed":
        del proto.graph.initializer[:]
        proto.graph.initializer.extend(models.typed(array, name) for name, array in arrays.items())
    if storage == "node":
        del proto.graph.initializer[:]
        for name, array in arrays.items():
            proto.graph.node.insert(0, models.constant(array, name))
    return models.write(proto, path)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings(spelling: str, storage: str, tmp_path: Path) -> None:
    chain, constants = SPELLINGS[spelling]
    proto = model(f"{chain}  y = MatMul (x, w)", constants=constants)
    outcome = proven(stored(proto, storage, tmp_path), tmp_path)
    assert outcome.op_types == ["MatMulNBits"]  # neither the chain nor the float weight is left
    assert not constants.keys() & outcome.initializers.keys()


@pytest.mark.parametrize("rows", ["", "M, ", "B, M, ", "B, H, M, "])
def test_activations_of_any_rank(rows: str, tmp_path: Path) -> None:
    proven(model("y = MatMul (x, w)", x=f"float[{rows}64] x", y=f"float[{rows}32] y", w=W), tmp_path)


def test_no_rows_at_all(tmp_path: Path) -> None:
    feed = {"x": np.empty((0, K), np.float32)}
    proven(model("y = MatMul (x, w)", w=W), tmp_path, feed=feed)


@pytest.mark.parametrize(("k", "n"), [(33, 40), (100, 17), (50, 21), (1030, 1), (32, 33)])
def test_odd_shapes(k: int, n: int, tmp_path: Path) -> None:
    w = grid(k, n)
    proven(model("y = MatMul (x, w)", x=f"float[M, {k}] x", y=f"float[M, {n}] y", w=w), tmp_path)


def test_float16_activations(tmp_path: Path) -> None:
    proto = model("y = MatMul (x, w)", x="float16[M, 64] x", y="float16[M, 32] y", w=W.astype(np.float16))
    outcome = proven(proto, tmp_path, tolerance=5e-3)
    assert outcome.initializers["w_scales"].data_type == onnx.TensorProto.FLOAT16


def test_float16_activations_with_a_weight_cast_down(tmp_path: Path) -> None:
    proto = model("w = Cast <to = 10> (s)  y = MatMul (x, w)", x="float16[M, 64] x", y="float16[M, 32] y", s=W)
    outcome = proven(proto, tmp_path, tolerance=5e-3)
    assert outcome.initializers["s_scales"].data_type == onnx.TensorProto.FLOAT16


def test_a_cast_that_overflows_is_damaged_and_silent(tmp_path: Path) -> None:
    proto = model("w = Cast <to = 10> (s)  y = MatMul (x, w)", x="float16[M, 64] x", y="float16[M, 32] y", s=W * 1e6)
    path = models.write(proto, tmp_path / "in.onnx")
    with pytest.raises(ModelError, match="NaN or infinite"):
        models.quantized_by_rtn(path)


def test_bfloat16_activations_are_refused_on_cpu(tmp_path: Path) -> None:
    proto = model("y = MatMul (x, w)", x="bfloat16[M, 64] x", y="bfloat16[M, 32] y", w=W.astype(BFLOAT16))
    with pytest.raises(SchemeError, match="bfloat16 activations on cpu"):
        models.quantized_by_rtn(models.write(proto, tmp_path / "in.onnx"))


@pytest.mark.parametrize("opset", [7, 9, 11, 12])
def test_old_operator_sets_keep_axes_and_shapes_in_attributes(opset: int, tmp_path: Path) -> None:
    body = "a = Unsqueeze <axes = [0, 3]> (s)  b = Squeeze <axes = [0, 3]> (a)  w = Transpose (b)  y = MatMul (x, w)"
    proven(model(body, opset=opset, s=W.T), tmp_path)


def test_many_nodes_of_one_model(tmp_path: Path) -> None:
    body = "a = MatMul (x, w0)  b = MatMul (a, w1)  c = Relu (b)  y = MatMul (c, w2)"
    proto = model(body, w0=grid(seed=1), w1=grid(32, 64, seed=2), w2=grid(seed=3))
    assert proven(proto, tmp_path, targets=3).op_types == ["MatMulNBits", "MatMulNBits", "Relu", "MatMulNBits"]
