"""Products of int8: what is written, what ONNX Runtime makes of it, and that a row is nobody's business but its own."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
import onnxruntime
import pytest

import onnxfq
from onnxfq.errors import ModelError, SchemeError
from onnxfq.quantized import QuantizedWeight
from onnxfq.rules import PRODUCT_RULES
from onnxfq.scheme import Scheme
from onnxfq.session import Session
from support.kernels import bare
from support.models import Array, compare, grid, model, normal, proven, quantized_by_rtn, run, write
from support.weights import random_codes

INT8 = Scheme(format="int8")
RULE = PRODUCT_RULES["int8"]
TOLERANCE = 2e-2  # of the largest value: both sides are rounded to 255 steps
W, K, N = grid(), *grid().shape


def rounded(x: npt.NDArray[np.float64], top: int = 127) -> npt.NDArray[np.float64]:
    largest = np.abs(x).max(axis=-1, keepdims=True)
    return np.asarray(np.rint(x / largest * top) * largest / top)


def optimized(path: Path) -> list[str]:
    """Operators that ONNX Runtime runs."""
    options, target = onnxruntime.SessionOptions(), path.with_suffix(".optimized.onnx")
    options.optimized_model_filepath, options.log_severity_level = str(target), 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(target).graph.node]


OPSETS, WIDTHS, TYPES = (13, 17, 18, 21, 23), (64, 37), ("float", "float16")


@pytest.mark.parametrize(("opset", "k", "scale_type"), list(product(OPSETS, WIDTHS, TYPES)))
def test_the_written_file_computes_what_its_codes_say(opset: int, k: int, scale_type: str, tmp_path: Path) -> None:
    dtype = np.float16 if scale_type == "float16" else np.float32
    x, w = normal(5, k).astype(dtype), normal(k, 48).astype(dtype)
    proto = model("y = MatMul(x, w)", x=f"{scale_type}[M, {k}] x", y=f"{scale_type}[M, 48] y", w=w, opset=opset,
                  ir=10 if opset > 20 else 8)  # fmt: skip
    quantized_by_rtn(write(proto, tmp_path / "in.onnx"), scheme=INT8)
    written = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "out.onnx").graph.initializer}
    codes, scales = written["w_Q8"].astype(np.float64), written["w_scales"].astype(np.float64)
    assert written["w_Q8"].dtype == np.int8
    expected = rounded(x.astype(np.float64)) @ (codes * scales[:, None]).T
    got = run(tmp_path / "out.onnx", {"x": x})["y"]
    assert got.dtype == dtype
    np.testing.assert_allclose(got, expected, atol=(2e-3 if dtype == np.float16 else 1e-5) * np.abs(expected).max())
    assert "MatMulIntegerToFloat" in optimized(tmp_path / "out.onnx")


SPELLINGS = {
    "MatMul": ("y = MatMul(x, w)", ""),
    "MatMul of more dimensions": ("y = MatMul(x, w)", f"float[B, M, {K}] x"),
    "MatMul of a vector": ("y = MatMul(x, w)", f"float[{K}] x"),
    "the weight first": ("y = MatMul(v, x)", f"float[{K}, M] x"),
    "Gemm, all of it": ("y = Gemm <transA = 1, transB = 1, alpha = 0.5, beta = -2.5> (x, v, c)", f"float[{K}, M] x"),
    "Gemm, C computed": ("d = Abs(c) y = Gemm <beta = 2.0> (x, w, d)", ""),
    "Einsum": ('y = Einsum <equation = "bkt,kn->bnt"> (x, w)', f"float[B, {K}, T] x"),
    "Einsum of any rank": ('y = Einsum <equation = "...k,kn->...n"> (x, w)', f"float[B, M, {K}] x"),
    "Einsum of a vector": ('y = Einsum <equation = "k,kn->n"> (x, w)', f"float[{K}] x"),
    "Einsum of heads": ('y = Einsum <equation = "bthd,hdn->btn"> (x, h)', f"float[B, T, 2, {K // 2}] x"),
    "three dimensions": ("y = MatMul(x, u)", ""),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_of_a_product(name: str, tmp_path: Path) -> None:
    body, x = SPELLINGS[name]
    constants = {"w": W, "v": np.ascontiguousarray(W.T), "c": normal(N), "u": W[None],
                 "h": W.reshape(2, K // 2, N)}  # fmt: skip
    proto = model(body, x=x or f"float[M, {K}] x", y="float[] y", constants={k: v for k, v in constants.items() if k in
                  body.replace("(", " ").replace(")", " ").replace(",", " ").split()})  # fmt: skip
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    proven(onnx.shape_inference.infer_shapes(proto), tmp_path, scheme=INT8, tolerance=TOLERANCE)
    assert optimized(tmp_path / "out.onnx").count("MatMulIntegerToFloat") == 1


def test_products_that_read_one_tensor_share_its_rounding_and_are_all_fused(tmp_path: Path) -> None:
    names = ["w", "v", "u", "t"]
    body = " ".join(f"{n}m = MatMul(x, {n}) {n}y = Add({n}m, c)" for n in names) + " y = Sum(wy, vy, uy, ty)"
    proto = model(body, constants={**{n: normal(K, N) + i for i, n in enumerate(names)}, "c": normal(N)})
    outcome = proven(proto, tmp_path, targets=4, scheme=INT8, tolerance=TOLERANCE)
    assert [outcome.op_types.count(n) for n in ("ReduceMax", "ReduceMin", "Div", "QuantizeLinear")] == [1, 1, 1, 4]
    ran = optimized(outcome.output)
    assert ran.count("MatMulIntegerToFloat") == 4
    assert not {"MatMul", "DequantizeLinear", "Transpose"} & set(ran)


def test_one_weight_of_two_products_is_stored_once(tmp_path: Path) -> None:
    outcome = proven(model("a = MatMul(x, w) b = Neg(x) c = MatMul(b, w) y = Sub(a, c)", w=W), tmp_path, targets=2,
                     scheme=INT8, tolerance=TOLERANCE)  # fmt: skip
    assert sum(name.startswith("w_Q8") for name in outcome.initializers) == 1


@pytest.fixture
def written(tmp_path: Path) -> Path:
    quantized_by_rtn(write(model("y = MatMul(x, w)", w=normal(K, N)), tmp_path / "in.onnx"), scheme=INT8)
    return tmp_path / "out.onnx"


def test_a_result_does_not_depend_on_what_is_computed_with_it(written: Path) -> None:
    x = normal(9, K)
    alone = np.concatenate([run(written, {"x": row[None]})["y"] for row in x])
    together = run(written, {"x": x})["y"]
    np.testing.assert_allclose(alone, together, rtol=1e-6, atol=1e-6)
    for outlier in (1e6, np.inf, np.nan):
        beside = x.copy()
        beside[4] *= outlier
        np.testing.assert_array_equal(np.delete(run(written, {"x": beside})["y"], 4, 0), np.delete(together, 4, 0))


def test_rows_of_zeros_and_the_smallest_numbers(written: Path) -> None:
    x = normal(3, K)
    x[0], x[1] = 0, 1e-30
    got = run(written, {"x": x})["y"]
    assert not got[0].any()
    assert np.isfinite(got).all()


@pytest.mark.parametrize("rank", [2, 3, None])
@pytest.mark.parametrize("opset", [17, 21])
def test_no_rows_at_all(rank: int | None, opset: int, tmp_path: Path) -> None:
    shape = {2: (0, K), 3: (2, 0, K), None: (3, 0, K)}[rank]
    sizes = {2: f"[M, {K}]", 3: f"[B, M, {K}]", None: ""}[rank]
    proto = model("y = MatMul(x, w)", x=f"float{sizes or [1]} x", y="float[1] y", w=W, opset=opset)
    for value in (proto.graph.output[0], *proto.graph.input[: rank is None]):
        value.type.tensor_type.ClearField("shape")
    source = write(proto, tmp_path / "in.onnx")
    quantized_by_rtn(source, scheme=INT8)
    compare(source, tmp_path / "out.onnx", {"x": normal(2, 5, K) if rank == 3 else normal(5, K)}, TOLERANCE)
    assert run(tmp_path / "out.onnx", {"x": np.zeros(shape, np.float32)})["y"].shape == (*shape[:-1], N)


@pytest.mark.parametrize("extreme", [-64, 64])
def test_the_largest_codes_do_not_saturate(extreme: int) -> None:
    n, k = 40, 96
    codes, scale, zero = np.full((n, k), extreme + 128, np.uint8), np.ones((n, 1), np.float32), np.full((n, 1), 128)
    q = QuantizedWeight(codes, scale, zero.astype(np.uint8), 8, k, symmetric=True)
    kernel = RULE.kernel("cpu", INT8, bare(n, k, "float32"))
    probe = RULE.probe(RULE.pack(q, kernel), kernel, n, k)
    for sign in (1, -1):
        (got,) = Session(probe.model, provider="cpu").run({"A": np.full((3, k), sign, np.float32)}).values()
        np.testing.assert_allclose(got, np.full((3, n), float(sign * extreme * k)), rtol=1e-6)


def test_unpack_undoes_pack() -> None:
    kernel = RULE.kernel("cpu", INT8, bare(19, 37, "float16"))
    q = random_codes(19, 37, 8, 37, symmetric=True, scale_type="float16", seed=1)
    packed = RULE.pack(q, kernel)
    assert RULE.fits(packed, 19, 37, kernel)
    assert not RULE.fits(packed, 20, 37, kernel)
    back = RULE.unpack(packed, kernel, 37)
    for got, wanted in ((back.codes, q.codes), (back.scale, q.scale), (back.zero_point, q.zero_point)):
        np.testing.assert_array_equal(got, wanted)
    assert (back.bits, back.block_size, back.scale_type, back.symmetric) == (8, 37, "float16", True)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"bits": 4}, "bits=8 .got bits=4"),
        ({"block_size": 32}, "block_size=channel"),
        ({"symmetric": False}, "symmetric=true"),
        ({"activations": "float"}, "activations=int8"),
    ],
)
def test_what_the_format_fixes_is_refused(given: dict[str, object], named: str) -> None:
    with pytest.raises(SchemeError, match=named):
        Scheme(format="int8", **given)  # type: ignore[arg-type]


def test_unknown_formats_are_refused() -> None:
    with pytest.raises(SchemeError, match=r"Unknown format.*'matmulnbits', 'int8'"):
        Scheme(format="gguf")  # type: ignore[arg-type]


def test_another_format_brings_its_own_values() -> None:
    assert Scheme(block_size=128).changed({"format": "int8"}) == INT8
    assert INT8.changed({"format": "matmulnbits", "bits": 8}) == Scheme(bits=8)


def test_models_for_old_operator_sets_are_converted(tmp_path: Path) -> None:
    proto = model("s = ReduceSum <axes = [-1]> (x) a = MatMul(x, w) y = Add(a, s)", w=W, opset=12)
    outcome = proven(proto, tmp_path, scheme=INT8, tolerance=TOLERANCE)
    assert [entry.version for entry in outcome.model.opset_import if not entry.domain] == [13]


def test_what_cannot_be_converted_is_refused_before_any_work(tmp_path: Path) -> None:
    source = write(model("y = MatMul(x, w)", w=W, opset=9), tmp_path / "in.onnx")
    with pytest.raises(ModelError, match="format int8"):
        onnxfq.quantize(source, tmp_path / "out.onnx", format="int8")
    assert not (tmp_path / "out.onnx").exists()


def test_providers_without_products_of_int8_are_refused() -> None:
    with pytest.raises(SchemeError, match=r"no products of int8 on cuda.*matmulnbits"):
        RULE.kernel("cuda", INT8, bare(64, 64, "float32"))


def test_quantizing_again_changes_nothing(written: Path, tmp_path: Path) -> None:
    report = onnxfq.quantize(written, tmp_path / "again.onnx", format="int8")
    assert report.output is None
    assert [skip.quantized for skip in report.skipped] == [True]


def test_one_node_may_have_another_format(tmp_path: Path) -> None:
    proto = model("a = MatMul(x, w) b = Relu(a) y = MatMul(b, v)", w=W, v=normal(N, 64), y="float[M, 64] y")
    proto.graph.node[0].name, proto.graph.node[2].name = "first", "second"
    source = write(proto, tmp_path / "in.onnx")
    onnxfq.quantize(source, tmp_path / "out.onnx", schemes={"second": {"format": "int8"}}, validate=False)
    ops = [node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node]
    assert ops.count("MatMulNBits") == ops.count("QuantizeLinear") == 1
    first = {"first": {"format": "matmulnbits", "bits": 8}}
    onnxfq.quantize(source, tmp_path / "out2.onnx", format="int8", schemes=first, validate=False)
    nodes = onnx.load(tmp_path / "out2.onnx").graph.node
    (product_node,) = [node for node in nodes if node.op_type == "MatMulNBits"]
    assert next(a.i for a in product_node.attribute if a.name == "bits") == 8


def test_branches(tmp_path: Path) -> None:
    then, other = (f"{n}_branch = {n} () => (r) {{ r = MatMul(x, {w}) }}" for n, w in (("then", "w"), ("else", "v")))
    body = f"z = If (b) <{then}, {other}> y = Neg(z)"
    proto = model(body, x=f"float[M, {K}] x, bool b", y=f"float[M, {N}] y", w=W, v=normal(K, N))
    for chosen in (True, False):
        folder = tmp_path / str(chosen)
        folder.mkdir()
        proven(proto, folder, targets=2, feed={"b": np.array(chosen)}, scheme=INT8, tolerance=TOLERANCE)


def calibrated(folder: Path, x: Array, **changes: object) -> tuple[float, list[str]]:
    """Relative MSE on other inputs, and the operators written."""
    half = len(x) // 2
    proto = model("h = Relu(x) y = MatMul(h, w)", x="float[M, 96] x", y="float[M, 80] y", w=normal(96, 80))
    source = write(proto, folder / "in.onnx")
    settings: dict[str, object] = {"format": "int8", "calib": [{"x": rows[None][0]} for rows in np.split(x[:half], 8)]}
    onnxfq.quantize(source, folder / "out.onnx", validate=False, **{**settings, **changes})  # type: ignore[arg-type]
    before, after = (run(path, {"x": x[half:]})["y"] for path in (source, folder / "out.onnx"))
    ops = [node.op_type for node in onnx.load(folder / "out.onnx").graph.node]
    return float(((before - after) ** 2).sum() / (before**2).sum()), ops


def test_channels_much_larger_than_others_are_divided_where_that_pays(tmp_path: Path) -> None:
    x = np.abs(np.random.default_rng(3).standard_normal((1024, 96))).astype(np.float32)
    x[:, [5, 40]] *= 60
    plain, _ = calibrated(tmp_path, x, calib=None)
    smooth, ops = calibrated(tmp_path, x)
    assert ops.count("Mul") == 2, "one for the inputs, one for the rows"
    assert smooth < 0.25 * plain


def test_even_channels_are_left_as_they_are(tmp_path: Path) -> None:
    x = np.abs(np.random.default_rng(3).standard_normal((1024, 96))).astype(np.float32)
    plain, _ = calibrated(tmp_path, x, calib=None)
    error, ops = calibrated(tmp_path, x)
    assert ops.count("Mul") == 1
    assert error < 1.05 * plain


def test_channels_of_which_little_is_known_are_not_stretched(tmp_path: Path) -> None:
    """A few tokens see most channels at rest; what is larger later must not take all steps of its row."""
    rng = np.random.default_rng(7)
    rest, awake = np.abs(rng.standard_normal((2, 1024, 96)))
    x = np.where(rng.random((1024, 96)) < 0.03, 5 * awake, 0.1 * rest).astype(np.float32)
    plain, _ = calibrated(tmp_path, x, calib=None)
    few, _ = calibrated(tmp_path, x, calib=[{"x": row[None]} for row in x[:24]])
    assert few < 1.2 * plain


def test_channels_that_calibration_never_saw_are_not_stretched(tmp_path: Path) -> None:
    x = np.abs(np.random.default_rng(3).standard_normal((1024, 96))).astype(np.float32)
    x[:, [5, 40]] *= 60
    x[:512, 10:30] = 0
    plain, _ = calibrated(tmp_path, x, calib=None)
    smooth, ops = calibrated(tmp_path, x)
    assert ops.count("Mul") == 2
    assert smooth < 0.5 * plain
