"""Weights that several nodes read: quantized once, and the float copy stays exactly while something else reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from support import models
from support.models import Array, K, N, grid, model, proven

W = grid()


def transposed(array: Array) -> Array:
    return np.ascontiguousarray(array.T)


def test_two_nodes_one_weight(tmp_path: Path) -> None:
    body = "a = MatMul (x, w)  b = Relu (x)  c = MatMul (b, w)  y = Add (a, c)"
    outcome = proven(model(body, w=W), tmp_path, targets=2)
    first, second = outcome.report.targets
    assert (first.shares, second.shares) == ("", "a")
    assert second.bytes == 0
    assert sorted(outcome.initializers) == ["w_Q4", "w_scales", "w_zero_points"]


def test_matmul_and_gemm_in_every_spelling_share(tmp_path: Path) -> None:
    """W, its transpose, and Gemm with transB on either are one and the same weight."""
    body = """
        t = Transpose (w)
        u = Transpose <perm = [1, 0]> (t)
        i = Identity (u)
        a = MatMul (x, w)
        b = Gemm (x, w)
        c = Gemm <transB = 1> (x, t)
        d = MatMul (x, u)
        e = Gemm (x, i)
        y = Sum (a, b, c, d, e)
    """
    outcome = proven(model(body, w=W), tmp_path, targets=5)
    assert outcome.op_types == ["MatMulNBits"] * 5 + ["Sum"]
    assert len(outcome.initializers) == 3
    assert [bool(t.shares) for t in outcome.report.targets] == [False, True, True, True, True]


def test_a_cast_before_or_after_the_transposition_is_the_same(tmp_path: Path) -> None:
    body = """
        a1 = Transpose (s)  a = Cast <to = 1> (a1)
        b1 = Cast <to = 1> (s)  b = Transpose (b1)
        p = MatMul (x, a)  q = MatMul (x, b)  y = Sub (p, q)
    """
    outcome = proven(model(body, s=W.T.astype(np.float16)), tmp_path, targets=2)
    assert len(outcome.initializers) == 3


def test_another_alpha_is_another_weight(tmp_path: Path) -> None:
    body = "a = Gemm <alpha = 0.5> (x, w)  b = Gemm (x, w)  c = Gemm <alpha = 0.5> (x, w)  y = Sum (a, b, c)"
    outcome = proven(model(body, w=W), tmp_path, targets=3)
    assert len(outcome.initializers) == 6
    assert [bool(t.shares) for t in outcome.report.targets] == [False, False, True]


def test_a_square_weight_and_its_transpose_are_two(tmp_path: Path) -> None:
    body = "t = Transpose (w)  a = MatMul (x, w)  b = MatMul (x, t)  y = Sub (a, b)"
    w = grid(K, K)
    outcome = proven(model(body, y="float[M, 64] y", w=w), tmp_path, targets=2, tolerance=np.inf)
    assert len(outcome.initializers) == 6
    feed = {"x": np.eye(K, dtype=np.float32)}
    np.testing.assert_allclose(models.run(outcome.output, feed)["y"], w - w.T, atol=w.max() - w.min())


TIED = "e = Gather (table, ids)  t = Transpose (table)  y = MatMul (e, t)"


def tied() -> onnx.ModelProto:
    """An embedding [32 ids, 64] that is the output head too."""
    return model(TIED, x="int64[M] ids", y="float[M, 32] y", table=transposed(W))


def test_a_tied_embedding_keeps_its_float_copy(tmp_path: Path) -> None:
    outcome = proven(tied(), tmp_path, feed={"ids": np.array([0, 5, 31])})
    assert outcome.op_types == ["Gather", "MatMulNBits"]
    assert sorted(outcome.initializers) == ["table", "table_Q4", "table_scales", "table_zero_points"]
    before = models.tensor(transposed(W), "table")
    assert outcome.initializers["table"] == before


def test_a_tied_embedding_through_a_cast_keeps_the_cast(tmp_path: Path) -> None:
    body = "f = Cast <to = 1> (table)  e = Gather (f, ids)  t = Transpose (f)  y = MatMul (e, t)"
    proto = model(body, x="int64[M] ids", table=transposed(W).astype(np.float16))
    outcome = proven(proto, tmp_path, feed={"ids": np.array([0, 5, 31])})
    assert outcome.op_types == ["Cast", "Gather", "MatMulNBits"]


def test_a_tied_head_of_which_only_part_is_excluded(tmp_path: Path) -> None:
    body = "a = MatMul (x, w)  b = MatMul (x, w)  y = Sub (a, b)"
    outcome = proven(model(body, w=W), tmp_path, tolerance=np.inf, exclude=("b",))
    assert "w" in outcome.initializers
    assert models.reasons(outcome.report) == {"b": "excluded by the user (`exclude=b`)"}


def test_a_weight_that_is_an_output_too(tmp_path: Path) -> None:
    proto = model("y = MatMul (x, w)", y="float[M, 32] y, float[64, 32] w", w=W)
    assert "w" in proven(proto, tmp_path).initializers


def test_a_link_of_the_chain_that_is_an_output_too(tmp_path: Path) -> None:
    proto = model("w = Transpose (s)  y = MatMul (x, w)", y="float[M, 32] y, float[64, 32] w", s=transposed(W))
    outcome = proven(proto, tmp_path)
    assert outcome.op_types == ["Transpose", "MatMulNBits"]
    assert "s" in outcome.initializers


def test_a_link_of_the_chain_that_is_read_elsewhere(tmp_path: Path) -> None:
    body = "t = Cast <to = 1> (s)  w = Transpose (t)  r = ReduceSum (t)  p = MatMul (x, w)  y = Add (p, r)"
    outcome = proven(model(body, s=W.T.astype(np.float16)), tmp_path)
    assert outcome.op_types == ["Cast", "ReduceSum", "MatMulNBits", "Add"]


def test_a_shape_that_is_read_elsewhere(tmp_path: Path) -> None:
    body = "w = Reshape (s, shape)  p = MatMul (x, w)  z = ConstantOfShape (shape)  r = ReduceSum (z)  y = Add (p, r)"
    outcome = proven(model(body, s=W.ravel(), shape=np.array([K, N])), tmp_path)
    assert "shape" in outcome.initializers
    assert "s" not in outcome.initializers


def test_two_initializers_with_the_same_bytes_stay_two(tmp_path: Path) -> None:
    proto = model("a = MatMul (x, v)  b = MatMul (x, w)  y = Sub (a, b)", v=W, w=W)
    assert len(proven(proto, tmp_path, targets=2).initializers) == 6
