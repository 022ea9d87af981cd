"""Weights on either side of a product, and with dimensions of 1 before their two: the product keeps its shape."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest

from support import models
from support.models import Array, K, N, grid, model, proven, reasons

W = grid()
LEFT = W.T.copy()  # [32, 64]
SHAPES: list[tuple[int, ...]] = [(K,), (3, K), (2, 3, K), (2, 1, 3, K), (2, 1, 1, 3, K)]
COLUMNS: list[tuple[int, ...]] = [(K,), (K, 3), (2, K, 3), (2, 1, K, 3)]


def declared(shape: tuple[int, ...], name: str) -> str:
    return f"float[{', '.join(map(str, shape))}] {name}"


def hidden(
    product: str, shape: tuple[int, ...], wanted: tuple[int, ...], opset: int = 17, **constants: Array
) -> onnx.ModelProto:
    """A product with `z`, which is `x`, in a form in which nothing tells its rank."""
    inputs = declared(shape, "x") + ", int64[R] s"
    return model(f"z = Reshape (x, s)  {product}", x=inputs, y=declared(wanted, "y"), opset=opset, constants=constants)


def fed(shape: tuple[int, ...]) -> dict[str, Array]:
    x = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
    return {"x": x, "s": np.array(shape, np.int64)}


def assert_twice_is_once(output: Path) -> None:
    again = output.with_name("twice.onnx")
    report = models.quantized_by_rtn(output, again)
    assert not report.targets
    assert report.output is None  # nothing is left to do, and nothing is written
    assert not again.exists()


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("unit", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_dimensions_of_one_before_a_right_operand(
    shape: tuple[int, ...], unit: int, known: bool, tmp_path: Path
) -> None:
    w = W.reshape(*[1] * unit, K, N)
    wanted = np.matmul(np.empty(shape), w).shape
    plain = model("y = MatMul (x, w)", x=declared(shape, "x"), y=declared(wanted, "y"), w=w)
    proto = plain if known else hidden("y = MatMul (z, w)", shape, wanted, w=w)
    outcome = proven(proto, tmp_path, feed=fed(shape))
    if known and len(shape) >= unit + 2:
        assert outcome.op_types == ["MatMulNBits"]
    assert_twice_is_once(outcome.output)


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_dimensions_of_one_and_any_number_of_rows(rows: int, tmp_path: Path) -> None:
    proven(model("y = MatMul (x, w)", y="float[1, M, 32] y", w=W[np.newaxis]), tmp_path, feed=fed((rows, K)))
    if rows:  # a Reshape to no rows at all copies the number
        proto = hidden("y = MatMul (z, w)", (rows, K), (1, rows, N), w=W[np.newaxis])
        proven(proto, tmp_path, feed=fed((rows, K)))


@pytest.mark.parametrize("opset", [8, 9, 10, 11, 13, 17])
@pytest.mark.parametrize("shape", [(K,), (3, K)])
def test_dimensions_of_one_in_every_operator_set(shape: tuple[int, ...], opset: int, tmp_path: Path) -> None:
    wanted = (1, *shape[:-1], N)
    proven(hidden("y = MatMul (z, w)", shape, wanted, opset, w=W[np.newaxis]), tmp_path, feed=fed(shape))


def test_dimensions_of_one_where_the_operator_set_cannot_add_them(tmp_path: Path) -> None:
    proto = model("s = MatMul (x, v)  t = MatMul (x, w)  y = Add (s, t)", opset=7, y="float[1, M, 32] y",
                  v=W[np.newaxis], w=W)  # fmt: skip
    reason = "unsupported shape: the weight has 3 dimensions [1, 64, 32], and this operator set no Expand"
    assert reasons(proven(proto, tmp_path).report) == {"s": reason}


def test_dimensions_of_one_by_way_of_reshapes_share_the_plain_weight(tmp_path: Path) -> None:
    body = "u = Unsqueeze (w, axes)  a = MatMul (x, u)  b = MatMul (x, w)  y = Add (a, b)"
    outcome = proven(model(body, y="float[1, M, 32] y", w=W, axes=np.array([0])), tmp_path, targets=2)
    assert [name for name in outcome.initializers if name.endswith("_Q4")] == ["w_Q4"]


def test_dimensions_of_one_inside_a_function_and_a_branch(tmp_path: Path) -> None:
    function = '<domain: "local", opset_import: ["" : 17]> linear (a) => (b) { b = MatMul (a, v) }'
    then, other = "t () => (float[1, M, 32] p) { p = MatMul (x, w) }", "e () => (float[1, M, 32] q) { q = Neg (f) }"
    proto = model(f"f = local.linear (x)  y = If (on) <then_branch = {then}, else_branch = {other}>",
                  x="float[M, 64] x, bool on", y="float[1, M, 32] y", domains=', "local" : 1', functions=function,
                  w=W[np.newaxis])  # fmt: skip
    proto.functions[0].node.insert(0, models.constant(W[np.newaxis], "v"))
    for on in (True, False):
        proven(proto, tmp_path, targets=2, feed={"on": np.array(on)})


@pytest.mark.parametrize("unit", [0, 1, 2])
@pytest.mark.parametrize("shape", COLUMNS)
def test_a_weight_that_is_the_left_operand(shape: tuple[int, ...], unit: int, tmp_path: Path) -> None:
    w = LEFT.reshape(*[1] * unit, N, K)
    wanted = np.matmul(w, np.empty(shape)).shape
    proto = model("y = MatMul (w, x)", x=declared(shape, "x"), y=declared(wanted, "y"), w=w)
    outcome = proven(proto, tmp_path, feed=fed(shape))
    assert outcome.op_types.count("Transpose") == (0 if len(shape) == 1 else 2)
    assert_twice_is_once(outcome.output)


@pytest.mark.parametrize("columns", [0, 1, 3])
def test_a_left_operand_of_any_number_of_columns(columns: int, tmp_path: Path) -> None:
    proto = model("y = MatMul (w, x)", x="float[64, P] x", y="float[32, P] y", w=LEFT)
    proven(proto, tmp_path, feed=fed((K, columns)))


def test_the_rank_beside_a_left_operand_is_inferred(tmp_path: Path) -> None:
    proto = model("a = Relu (x)  b = Transpose (a)  y = MatMul (w, b)", y="float[32, M] y", w=LEFT)
    assert proven(proto, tmp_path).op_types.count("MatMulNBits") == 1


def test_a_left_operand_of_something_of_unknown_rank(tmp_path: Path) -> None:
    product = "a = MatMul (v, z)  b = MatMul (w, a)  y = Gemm (u, b)"
    proto = hidden(product, (K, 4), (N, 4), v=grid(64, 64), w=LEFT, u=grid(32, 32).T.copy())
    outcome = proven(proto, tmp_path, feed=fed((K, 4)))
    reason = "the constant weight is the left operand, and nothing tells how many dimensions the right one has"
    assert reasons(outcome.report) == {"a": reason, "b": reason}


C: dict[str, tuple[str, tuple[int, ...]]] = {
    "row": ("c", (5,)), "column": ("c", (N, 1)), "scalar": ("c", (1,)), "whole": ("c", (N, 5)), "fed": ("z", (5,)),
}  # fmt: skip


@pytest.mark.parametrize("added", ["nothing", *C])
@pytest.mark.parametrize("turned", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_left_operand_of_gemm(turned: tuple[int, int], added: str, tmp_path: Path) -> None:
    a, b = turned
    x = (5, K) if b else (K, 5)
    name, shape = C.get(added, ("", ()))
    bias = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    inputs = declared(x, "x") + (f", {declared(shape, 'z')}" if name == "z" else "")
    term = f", {name}" if name else ""
    constants = {"w": W if a else LEFT} | ({"c": bias} if name == "c" else {})
    body = f"y = Gemm <alpha = 0.5, beta = 1.5, transA = {a}, transB = {b}> (w, x{term})"
    proto = model(body, x=inputs, y="float[32, 5] y", constants=constants)
    outcome = proven(proto, tmp_path, feed=fed(x))
    assert outcome.op_types.count("Transpose") == (1 if b else 2)
    assert_twice_is_once(outcome.output)


def test_a_left_operand_shares_its_weight_with_a_right_one(tmp_path: Path) -> None:
    body = (
        "t = Transpose (w)  r = MatMul (x, t)  u = Transpose (x)  l = MatMul (w, u)  v = Transpose (l)  y = Add (r, v)"
    )
    outcome = proven(model(body, w=LEFT), tmp_path, targets=2)
    assert [name for name in outcome.initializers if name.endswith("_Q4")] == ["w_Q4"]


@pytest.mark.parametrize("shape", [(K, 40), (2, K, 20)])
def test_a_left_operand_is_calibrated(shape: tuple[int, ...], tmp_path: Path) -> None:
    """Features that vary together: the solver that knows them errs less than the one that does not."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((K, 6))
    samples = [{"x": (mixing @ rng.standard_normal((*shape[:-2], 6, shape[-1]))).astype(np.float32)} for _ in range(8)]
    w = rng.standard_normal((N, K)).astype(np.float32)
    proto = model("p = MatMul (w, x)  y = Add (p, c)", x=declared(shape, "x"), c=np.ones(shape[-1], np.float32),
                  y=declared((*shape[:-2], N, shape[-1]), "y"), w=w)  # fmt: skip
    path = models.write(proto, tmp_path / "in.onnx")
    found = {}
    for algorithm in ("hqq", "gptq"):
        report = models.quantized_by_rtn(path, calib=samples, algorithm=algorithm, validate=True)
        found[algorithm] = report.outputs[0].relative_mse or math.inf
        assert report.targets[0].tokens == (0 if algorithm == "hqq" else 8 * 40)
    assert found["gptq"] < 0.5 * found["hqq"]
