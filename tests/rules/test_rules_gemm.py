"""Gemm with every transposition, factor and kind of bias."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxfq.graph import Graph, TensorFile, save
from onnxfq.scheme import Activations, Scheme
from onnxfq.solvers import make_solver
from support import models
from support.models import Array, K, M, N, grid, model, proven
from support.planned import planned, put

W = grid()
BIASES: dict[str, tuple[int, ...] | None] = {
    "none": None,
    "[N]": (N,),
    "[1, N]": (1, N),
    "[M, N]": (M, N),
    "[M, 1]": (M, 1),
    "[1, 1]": (1, 1),
    "[1]": (1,),
    "scalar": (),
}


def normal(*shape: int) -> Array:
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


def gemm(trans_a: int, trans_b: int, alpha: float, beta: float, inputs: str, output: str) -> str:
    flags = f"transA = {trans_a}, transB = {trans_b}, alpha = {alpha:.2f}, beta = {beta:.2f}"
    return f"{output} = Gemm <{flags}> ({inputs})"


@pytest.mark.parametrize("constant", [True, False], ids=["constant", "computed"])
@pytest.mark.parametrize("bias", BIASES)
def test_all_settings(bias: str, constant: bool, tmp_path: Path) -> None:
    shape = BIASES[bias]
    lines: list[str] = []
    outputs: list[str] = []
    for trans_a, trans_b, alpha, beta in product((0, 1), (0, 1), (1.0, 0.5), (1.0, -2.5, 0.0)):
        output = f"y{len(lines)}"
        inputs = [f"x{trans_a}", f"w{trans_b}"] + ([] if shape is None else ["c"])
        lines.append(gemm(trans_a, trans_b, alpha, beta, ", ".join(inputs), output))
        outputs.append(f"float[{M}, {N}] {output}")
    constants: dict[str, Array] = {"w0": W, "w1": np.ascontiguousarray(W.T)}
    x = f"float[{M}, {K}] x0, float[{K}, {M}] x1"
    if shape is not None and constant:
        constants["c"] = normal(*shape)
    elif shape is not None:
        x += f", float[{', '.join(map(str, shape))}] c" if shape else ", float c"
    proto = model("  ".join(lines), x=x, y=", ".join(outputs), constants=constants)
    outcome = proven(proto, tmp_path, targets=24)
    assert "Gemm" not in outcome.op_types
    assert outcome.op_types.count("Transpose") == 12
    assert outcome.op_types.count("MatMulNBits") == 24
    row = constant and shape in ((N,), (1, N))
    assert outcome.op_types.count("Add") == (0 if row or shape is None else 16)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_row_beside_default_zero_points(symmetric: bool, tmp_path: Path) -> None:
    """The bias is the sixth input, whether the fourth is given or not."""
    scheme = Scheme(bits=8, symmetric=symmetric, activations="float")
    proto = model("y = Gemm (x, w, c)", w=W, c=100 * normal(N))
    outcome = proven(proto, tmp_path, tolerance=1e-2, scheme=scheme, allow_slow=True)
    assert [bool(name) for name in outcome.model.graph.node[0].input] == [True, True, True, not symmetric, False, True]


@pytest.mark.parametrize("accuracy", ["int8", "float"])
def test_a_row_goes_into_the_kernel_and_the_old_bias_goes(accuracy: Activations, tmp_path: Path) -> None:
    body = gemm(0, 1, 0.5, 2.0, "x, w, c", "y")
    proto = model(body, w=np.ascontiguousarray(W.T), c=normal(N))
    tolerance = 1e-5 if accuracy == "float" else 2e-2
    outcome = proven(proto, tmp_path, tolerance=tolerance, scheme=Scheme(activations=accuracy))
    assert outcome.op_types == ["MatMulNBits"]
    assert sorted(outcome.initializers) == ["c_row", "w_Q4", "w_scales", "w_zero_points"]
    np.testing.assert_allclose(onnx.numpy_helper.to_array(outcome.initializers["c_row"]), 2 * normal(N))


def test_a_bias_that_others_read_stays(tmp_path: Path) -> None:
    body = "a = Gemm <beta = 2.0> (x, w, c)  y = Add (a, c)"
    assert "c" in proven(model(body, w=W, c=normal(N)), tmp_path).initializers


def test_a_bias_behind_a_cast(tmp_path: Path) -> None:
    body = "c = Cast <to = 1> (h)  y = Gemm (x, w, c)"
    outcome = proven(model(body, w=W, h=normal(N).astype(np.float16)), tmp_path)
    assert outcome.op_types == ["Cast", "MatMulNBits"]


def test_a_bias_with_a_factor_behind_a_cast(tmp_path: Path) -> None:
    body = "c = Cast <to = 1> (h)  y = Gemm <beta = 0.5> (x, w, c)"
    outcome = proven(model(body, w=W, h=normal(N).astype(np.float16)), tmp_path)
    assert outcome.op_types == ["MatMulNBits"]


def test_beta_zero_drops_the_bias(tmp_path: Path) -> None:
    outcome = proven(model("y = Gemm <beta = 0.0> (x, w, c)", w=W, c=normal(N)), tmp_path)
    assert outcome.op_types == ["MatMulNBits"]
    assert "c" not in outcome.initializers


def test_a_bias_left_out_by_an_empty_name(tmp_path: Path) -> None:
    proto = model("y = Gemm (x, w)", w=W)
    proto.graph.node[0].input.append("")
    assert proven(proto, tmp_path).op_types == ["MatMulNBits"]


def test_gemm_of_one_output(tmp_path: Path) -> None:
    w = grid(1024, 1)
    for shape in ((1,), (1, 1), ()):
        proto = model("y = Gemm (x, w, c)", x="float[M, 1024] x", y="float[M, 1] y", w=w, c=normal(*shape))
        proven(proto, tmp_path)


def test_float16_gemm(tmp_path: Path) -> None:
    body = gemm(1, 0, 0.5, 0.1, "x, w, c", "y")
    half: dict[str, Array] = {"w": W.astype(np.float16), "c": normal(M, 1).astype(np.float16)}
    proto = model(body, x=f"float16[{K}, {M}] x", y=f"float16[{M}, {N}] y", constants=half)
    proven(proto, tmp_path, tolerance=5e-3)


@pytest.mark.parametrize("opset", [7, 9, 11, 13])
def test_old_operator_sets(opset: int, tmp_path: Path) -> None:
    proto = model(gemm(1, 1, 0.5, 3.0, "x, w, c", "y"), x="float[64, M] x", opset=opset, w=W.T, c=normal())
    proven(proto, tmp_path)


def test_alpha_of_any_value(tmp_path: Path) -> None:
    for alpha in (0.37, -1.5, 1e-3, 1e4):
        proven(model(f"y = Gemm <alpha = {alpha:.5f}> (x, w)", w=W), tmp_path)


@pytest.mark.parametrize("bias", [(), (N,), (1, N), (M, N)])
@pytest.mark.parametrize("beta", [1.0, 0.5, 0.0])
def test_cuda_takes_no_bias_input(bias: tuple[int, ...], beta: float, tmp_path: Path) -> None:
    """The file that is made for CUDA, run on the CPU: the bias is added by a node of its own."""
    proto = model(gemm(0, 0, 1.0, beta, "x, w, c", "y"), x=f"float[{M}, 64] x", w=W, c=normal(*bias))
    source, output = models.write(proto, tmp_path / "in.onnx"), tmp_path / "out.onnx"
    graph = Graph.load(source)
    scheme = Scheme(bits=8, symmetric=True)
    ((chosen,), _) = planned(graph, scheme, "cuda")
    q = make_solver("rtn").solve(chosen.target.load(), scheme, None, scale_type="float32")
    with TensorFile(tmp_path / "tensor_file") as tensor_file:
        put(graph, chosen, q, tensor_file)
        graph.finish()
        save(graph, output, tensor_file)
    node = models.find(onnx.load(output).graph.node, "MatMulNBits")
    assert len(node.input) == 3
    models.compare(source, output, tolerance=3e-2)


def test_alpha_zero(tmp_path: Path) -> None:
    proven(model("y = Gemm <alpha = 0.0> (x, w, c)", w=W, c=normal(N)), tmp_path)
