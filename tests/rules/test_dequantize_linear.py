"""DequantizeLinear before products: what is stored, what ONNX Runtime makes of it, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto

import onnxfq
from onnxfq.errors import ModelError, SchemeError
from onnxfq.packing import fingerprint
from onnxfq.quantized import STORED_TYPES, QuantizedWeight
from onnxfq.rules import PRODUCT_RULES, Kernel
from onnxfq.rules.matmul_nbits import pack
from onnxfq.scheme import BITS, BLOCK_SIZES, Granularity, ScaleType, Scheme
from support import models
from support.kernels import SIZES, bare, kernel_name, offered
from support.models import Array, grid, model, normal, proven, write
from support.sampled import tokens
from support.weights import random_codes

RULE = PRODUCT_RULES["qdq"]
N, K = 20, 280  # N a multiple of 4, which 2 bits want; K no multiple of any block
QDQ = Scheme(format="qdq")
ROUNDED = 0.03  # largest difference that rounding of activations to int8 makes, relative to the largest value
LEVEL = "session.qdq_matmulnbits_accuracy_level"


def codes_for(kernel: Kernel, n: int = N, k: int = K, seed: int = 0) -> QuantizedWeight:
    return random_codes(
        n, k, kernel.bits, kernel.block_size, symmetric=kernel.symmetric, scale_type=kernel.activation_type, seed=seed
    )


def loaded(model: bytes | Path, folder: Path, **config: str) -> tuple[onnxruntime.InferenceSession, ModelProto]:
    """A session as everybody opens it, and the graph that it runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    for key, value in config.items():
        options.add_session_config_entry(key, value)
    source = str(model) if isinstance(model, Path) else model
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return session, onnx.load(folder / "optimized.onnx")


def all_nodes(graph: onnx.GraphProto) -> list[NodeProto]:
    """The nodes of a graph and of all subgraphs."""
    inner = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    return [*graph.node, *(node for other in inner for node in all_nodes(other))]


def products_that_run(path: Path) -> int:
    """How many MatMulNBits ONNX Runtime makes of a file; nothing may stay that dequantizes in every run."""
    _, optimized = loaded(path, path.parent)
    op_types = [node.op_type for node in all_nodes(optimized.graph)]
    assert "DequantizeLinear" not in op_types
    return op_types.count("MatMulNBits")


# What is stored


@settings(max_examples=60)
@given(
    n=st.integers(1, 70),
    k=st.integers(1, 300),
    bits=st.sampled_from(BITS),
    block_size=st.sampled_from(SIZES),
    symmetric=st.booleans(),
    scale_type=st.sampled_from(("float32", "float16")),
    cut=st.integers(0, 70),
    seed=st.integers(0, 9),
)
def test_what_is_stored_is_what_was_packed(
    n: int,
    k: int,
    bits: int,
    block_size: int | Granularity,
    symmetric: bool,
    scale_type: ScaleType,
    cut: int,
    seed: int,
) -> None:
    n = 4 * n if bits == 2 else n
    kernel = RULE.kernel("cpu", Scheme(bits, block_size, symmetric, format="qdq"), bare(n, k, scale_type))
    q = codes_for(kernel, n, k, seed)
    packed = RULE.pack(q, kernel)
    assert list(packed) == list(RULE.layout(n, k, kernel))
    cut = min(cut, n)
    parts = [{name: array[rows] for name, array in packed.items()} for rows in (slice(0, cut), slice(cut, n))]
    written = {name: arrays[0] for name, arrays in RULE.written(parts, kernel, k).items()}
    assert RULE.fits(written, n, k, kernel)
    assert not RULE.fits(written, n + 1, k, kernel)
    assert sum(array.nbytes for array in written.values()) == RULE.nbytes(n, k, kernel)
    for rows in (slice(0, n), slice(cut, n), slice(0, cut)):
        taken = RULE.rows(written, rows, kernel, n, k)
        back = RULE.unpack(taken, kernel, k)
        np.testing.assert_array_equal(back.codes, q.codes[rows])
        np.testing.assert_array_equal(back.scale, q.scale[rows])
        np.testing.assert_array_equal(back.zero_point, q.zero_point[rows])


def test_it_is_what_onnx_says_it_is(tmp_path: Path) -> None:
    """ONNX's own reading of the file gives the codes that were meant, whatever N and K."""
    for bits, symmetric, n, k in ((4, True, 33, 65), (4, False, 35, 70), (8, True, 33, 65), (8, False, 34, 64)):
        source = write(model("y = MatMul (x, w)", x=f"float[M, {k}] x", y=f"float[M, {n}] y", w=normal(k, n)),
                       tmp_path / "in.onnx")  # fmt: skip
        scheme = Scheme(bits, 32, symmetric, format="qdq")
        report = models.quantized_by_rtn(source, scheme=scheme)
        written = onnx.load(tmp_path / "out.onnx")
        tensors = {t.name: onnx.numpy_helper.to_array(t) for t in written.graph.initializer}
        dequantized = models.find(written.graph.node, "DequantizeLinear")
        codes, scales, *rest = (tensors[name].astype(np.float64) for name in dequantized.input)
        assert tensors[dequantized.input[0]].dtype.name == f"{'' if symmetric else 'u'}int{bits}"
        assert (codes.shape, scales.shape) == ((k, n), (-(-k // 32), n))
        zero_points = np.repeat(rest[0], 32, axis=0)[:k] if rest else 0.0
        values = np.repeat(scales, 32, axis=0)[:k] * (codes - zero_points)
        assert report.targets[0].relative_error == pytest.approx(
            float(((values - normal(k, n)) ** 2).sum() / (normal(k, n) ** 2).sum()), rel=1e-4
        )
        (tmp_path / "out.onnx").unlink()


# What ONNX Runtime makes of it


@pytest.mark.parametrize("kernel", [pytest.param(k, id=kernel_name(k)) for k in offered(RULE, n=N, k=K)])
def test_every_kernel_is_fused_and_computes_what_the_other_format_does(kernel: Kernel, tmp_path: Path) -> None:
    """With activations rounded to int8, as sessions usually do, and without."""
    q = codes_for(kernel)
    probe = RULE.probe(RULE.pack(q, kernel), kernel, N, K)
    block_size = RULE.rounded_block(kernel, 64)
    assert block_size == (kernel.block_size if kernel.block_size in BLOCK_SIZES else 32)
    for level, config in ((4, {}), (0, {LEVEL: "0"})):
        session, optimized = loaded(probe.model, tmp_path, **config)
        (fused,) = (node for node in optimized.graph.node if node.op_type == "MatMulNBits")
        said = {a.name: a.i for a in fused.attribute}
        assert (said["bits"], said["block_size"], said["accuracy_level"]) == (kernel.bits, block_size, level)
        assert "DequantizeLinear" not in {node.op_type for node in optimized.graph.node}
        (got,) = session.run(None, dict(probe.feed))
        assert float(((got - probe.expected) ** 2).sum() / (probe.expected**2).sum()) <= probe.tolerance
        other = as_matmul_nbits(q, block_size, level, probe.feed["A"])
        largest = float(np.abs(other.astype(np.float64)).max())
        rounding = 2e-6 if kernel.activation_type == "float32" else 2e-3
        np.testing.assert_allclose(got.astype(np.float64), other.astype(np.float64), atol=rounding * largest, rtol=0)


def as_matmul_nbits(q: QuantizedWeight, block_size: int, level: int, a: Array) -> Array:
    """The same product by the operator of the other format."""
    tensors = pack(q, block_size)
    n, k = q.shape
    said = {"N": n, "K": k, "bits": q.bits, "block_size": block_size, "accuracy_level": level}
    node = onnx.helper.make_node("MatMulNBits", ["A", *tensors], ["Y"], domain="com.microsoft", **said)
    element = onnx.helper.np_dtype_to_tensor_dtype(a.dtype)
    ends = [onnx.helper.make_tensor_value_info(name, element, None) for name in "AY"]
    initializers = [models.tensor(array, name) for name, array in tensors.items()]
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:], initializers)
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    proto = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"A": a})[0])


W, BIAS = grid(), normal(32)
GRAPHS: dict[str, tuple[str, str, dict[str, Array]]] = {
    "MatMul": ("y = MatMul (x, w)", "float[M, 64] x", {"w": W}),
    "MatMul of rows of rows": ("y = MatMul (x, w)", "float[2, M, 64] x", {"w": W}),
    "MatMul and a bias": ("p = MatMul (x, w)  y = Add (p, b)", "float[2, M, 64] x", {"w": W, "b": BIAS}),
    "Gemm": ("y = Gemm (x, w)", "float[M, 64] x", {"w": W}),
    "Gemm and a bias": (
        "y = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, w, b)", "float[M, 64] x", {"w": W.T.copy(), "b": BIAS}),
    "Gemm of columns": ("y = Gemm <transA = 1> (x, w)", "float[64, M] x", {"w": W}),
    "Einsum": ('y = Einsum <equation = "bmk,kn->bnm"> (x, w)', "float[2, M, 64] x", {"w": W}),
    "left operand": ("y = MatMul (w, x)", "float[64, M] x", {"w": W.T.copy()}),
    "a dimension of 1": ("y = MatMul (x, w)", "float[M, 64] x", {"w": W[None]}),
    "a weight turned": ("t = Transpose (w)  y = MatMul (x, t)", "float[M, 64] x", {"w": W.T.copy()}),
    "half precision": ("y = MatMul (x, w)", "float16[M, 64] x", {"w": W.astype(np.float16)}),
}  # fmt: skip
AFTER = (
    "y = Relu (p)",
    "y = Clip (p, low, high)",
    "s = Add (p, b)  y = Relu (s)",
    "s = Add (b, p)  y = Clip (s, low, high)",
    "r = Relu (p)  y = Neg (r)",
    "s = Add (p, b)  r = Relu (s)  y = Neg (r)",
    "s = Add (p, b)  r = Clip (s, low, high)  y = Neg (r)",
    "t = Abs (p)  y = Neg (t)",
)
LIMITS = {"low": np.array(-4, np.float32), "high": np.array(4, np.float32)}


def ends(x: str, w: Array, body: str) -> str:
    """How the output is declared: its type and rank."""
    rank = max(x.count(",") + 1, w.ndim)
    return f"{x.split('[')[0]}[{', '.join('ABC'[:rank])}] y"


@pytest.mark.parametrize("case", GRAPHS)
def test_every_product_is_fused(case: str, tmp_path: Path) -> None:
    body, x, constants = GRAPHS[case]
    proto = model(body, x=x, y=ends(x, constants["w"], body), constants=constants)
    outcome = proven(proto, tmp_path, scheme=QDQ, tolerance=ROUNDED)
    (written,) = outcome.nodes("DequantizeLinear")
    assert {a.name: a.i for a in written.attribute} == {"axis": 0, "block_size": 32}
    assert not written.domain
    assert {entry.domain: entry.version for entry in outcome.model.opset_import} == {"": 21}
    assert outcome.report.targets[0].operator == "DequantizeLinear"
    assert outcome.report.targets[0].bytes == sum(
        len(t.raw_data) for t in outcome.model.graph.initializer if t.name in written.input
    )
    assert products_that_run(outcome.output) == 1
    other = models.quantized_by_rtn(outcome.source, tmp_path / "other.onnx", scheme=Scheme())
    assert other.targets[0].relative_error == outcome.report.targets[0].relative_error
    rounding = 2e-3 if case == "half precision" else 1e-5
    models.compare(outcome.output, tmp_path / "other.onnx", tolerance=rounding)


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("product", ["p = MatMul (x, w)", "p = Gemm (x, w, c)"])
def test_products_that_are_clipped_are_fused_too(product: str, rank: int, after: str, tmp_path: Path) -> None:
    """ONNX Runtime takes a clip behind a product for something that quantized outputs make needless."""
    if rank == 3 and "Gemm" in product:
        return
    x, y = ("float[M, 64] x", "float[M, 32] y") if rank == 2 else ("float[2, M, 64] x", "float[2, M, 32] y")
    used = {name: array for name, array in {**LIMITS, "b": BIAS, "c": BIAS[::-1].copy()}.items()
            if f"{name}," in f"{product} {after}" or f"{name})" in f"{product} {after}"}  # fmt: skip
    proto = model(f"{product} {after}", x=x, y=y, w=W, constants=used)
    assert products_that_run(proven(proto, tmp_path, scheme=QDQ, tolerance=ROUNDED).output) == 1


def test_a_branch_holds_its_own_initializers(tmp_path: Path) -> None:
    """ONNX Runtime cannot load a model in which they stand outside."""
    body = """y = If (c) <
        then_branch = t () => (float[M, 32] a) { a = MatMul (x, w) },
        else_branch = e () => (float[M, 32] b) { n = Neg (x)  b = MatMul (n, w) }>"""
    proto = model(body, x="float[M, 64] x, bool c", w=W)
    outcome = proven(proto, tmp_path, targets=2, scheme=QDQ, tolerance=ROUNDED, feed={"c": np.array(True)})
    models.compare(outcome.source, outcome.output, {"c": np.array(False)}, ROUNDED)
    assert products_that_run(outcome.output) == 2
    assert not outcome.initializers


def test_a_function_holds_its_own_constants(tmp_path: Path) -> None:
    weight = onnx.helper.make_node("Constant", [], ["w"], value=models.tensor(W, "w"))
    function = '<opset_import: ["" : 17], domain: "local"> f (v) => (r) { r = MatMul (v, w) }'
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17, "local" : 1]> main (float[M, 64] x) => (float[M, 32] y) '
        f"{{ y = local.f (x) }} {function}"
    )
    proto.functions[0].node.insert(0, weight)
    outcome = proven(proto, tmp_path, scheme=QDQ, tolerance=ROUNDED)
    assert products_that_run(outcome.output) == 1


@pytest.mark.parametrize(("block_size", "symmetric"), [("channel", True), ("channel", False), ("tensor", True)])
def test_one_scale_a_row_is_said_as_such(block_size: Granularity, symmetric: bool, tmp_path: Path) -> None:
    proto = model("y = MatMul (x, w)", x="float[M, 280] x", w=normal(280, 32))
    scheme = Scheme(8, block_size, symmetric, format="qdq")
    outcome = proven(proto, tmp_path, scheme=scheme, tolerance=ROUNDED)
    (written,) = outcome.nodes("DequantizeLinear")
    assert {a.name: a.i for a in written.attribute} == {"axis": 1}
    assert {tuple(outcome.initializers[name].dims) for name in written.input[1:]} == {(32,)}
    assert products_that_run(outcome.output) == 1


def test_two_bits_take_a_later_operator_set(tmp_path: Path) -> None:
    proto = model("y = MatMul (x, w)", w=grid())
    scheme = Scheme(2, 32, symmetric=True, format="qdq")
    report = models.quantized_by_rtn(write(proto, tmp_path / "in.onnx"), scheme=scheme, allow_slow=True)
    written = onnx.load(tmp_path / "out.onnx")
    assert [entry.version for entry in written.opset_import] == [25]
    assert report.targets[0].bits == 2
    assert products_that_run(tmp_path / "out.onnx") == 1


def test_a_later_operator_set_is_kept(tmp_path: Path) -> None:
    outcome = proven(model("y = MatMul (x, w)", w=W, opset=23, ir=11), tmp_path, scheme=QDQ, tolerance=ROUNDED)
    assert [entry.version for entry in outcome.model.opset_import] == [23]
    assert outcome.model.ir_version == 11


def test_what_was_written_is_not_quantized_again(tmp_path: Path) -> None:
    outcome = proven(model("y = MatMul (x, w)", w=W), tmp_path, scheme=QDQ, tolerance=ROUNDED)
    for scheme in (QDQ, Scheme()):
        twice = models.quantized_by_rtn(outcome.output, tmp_path / "twice.onnx", scheme=scheme)
        assert [skip.reason for skip in twice.skipped] == ["already quantized: its weight comes from DequantizeLinear"]
        assert twice.output is None
    inspected = onnxfq.inspect(outcome.output)
    assert any(content.is_quantized for content in inspected.source_contents)
    again = tmp_path / "again.onnx"
    models.quantized_by_rtn(outcome.source, again, scheme=QDQ)
    assert again.read_bytes() == outcome.output.read_bytes()


# Weights with several readers, and tables


def test_nodes_that_share_a_weight_get_copies(tmp_path: Path) -> None:
    """ONNX Runtime fuses neither two nodes that read one DequantizeLinear, nor two of those that share a tensor."""
    proto = model("a = MatMul (x, w)  n = Neg (x)  b = MatMul (n, w)  y = Sub (a, b)", w=W)
    outcome = proven(proto, tmp_path, targets=2, scheme=QDQ, tolerance=ROUNDED)
    names = [name for node in outcome.nodes("DequantizeLinear") for name in node.input]
    assert len(set(names)) == len(names) == 6
    assert products_that_run(outcome.output) == 2
    (told,) = (warning for warning in outcome.report.warnings if "share their weight" in warning)
    assert "1 nodes share their weight with others and have a copy of their own" in told
    assert "format matmulnbits" in told


def test_copies_that_would_be_larger_than_the_weight_are_not_made(tmp_path: Path) -> None:
    steps = " ".join(f"s{i + 1} = MatMul (s{i}, w)" for i in range(8))
    square = normal(64, 64) / 8
    body = f"s0 = Identity (x) {steps} u = MatMul (s8, v)  y = Identity (u)"
    source = write(model(body, y="float[M, 64] y", w=square, v=square.T.copy()), tmp_path / "in.onnx")
    report = models.quantized_by_rtn(source, scheme=QDQ)
    assert [target.name for target in report.targets] == ["u"]
    reasons = models.reasons(report)
    assert set(reasons.values()) == {
        "as DequantizeLinear, 8 nodes would need a copy each of its weight, together larger than it is now "
        '(`format="matmulnbits"` stores it once)'
    }
    assert products_that_run(tmp_path / "out.onnx") == 1


def test_tables_are_never_dequantized_as_a_whole(tmp_path: Path) -> None:
    table = grid(64, 256).T.copy()
    body = "e = Gather (t, ids)  y = MatMul (e, w)"
    source = write(model(body, x="int64[M] ids", y="float[M, 32] y", t=table, w=W), tmp_path / "in.onnx")
    report = models.quantized_by_rtn(source, scheme=QDQ)
    assert {target.name: target.operator for target in report.targets} == {
        "e": "GatherBlockQuantized", "y": "DequantizeLinear"}  # fmt: skip
    assert any("which other runtimes may not know" in warning for warning in report.warnings)
    (tmp_path / "out.onnx").unlink()
    plain = models.quantized_by_rtn(source, scheme=QDQ, embeddings="float")
    assert not any("runtimes may not know" in warning for warning in plain.warnings)
    assert {entry.domain for entry in onnx.load(tmp_path / "out.onnx").opset_import} == {""}


# Calibration


def test_calibration_finds_the_same_codes_as_for_the_other_format(tmp_path: Path) -> None:
    body = "p = MatMul (x, w)  s = Add (p, b)  h = Tanh (s)  q = MatMul (h, v)  y = Relu (q)"
    proto = model(body, y="float[M, 64] y", w=normal(64, 32), b=BIAS, v=normal(32, 64) / 4)
    source, samples = write(proto, tmp_path / "in.onnx"), tokens(60, 40, 50)
    settings: dict[str, Any] = {"provider": "cpu", "validate": False, "calib": samples, "algorithm": "gptq"}
    ours = onnxfq.quantize(source, tmp_path / "qdq.onnx", scheme=QDQ, **settings)
    other = onnxfq.quantize(source, tmp_path / "nbits.onnx", **settings)
    assert [t.relative_error for t in ours.targets] == [t.relative_error for t in other.targets]
    assert products_that_run(tmp_path / "qdq.onnx") == 2
    models.compare(tmp_path / "nbits.onnx", tmp_path / "qdq.onnx", {"x": samples[0]["x"]}, tolerance=1e-6)


# What is refused


def test_activations_in_float_cannot_be_said() -> None:
    scheme = Scheme(activations="float", format="qdq")
    with pytest.raises(SchemeError, match=r'`activations="int8"`.*session.qdq_matmulnbits_accuracy_level to 0'):
        RULE.kernel("cpu", scheme, bare(64, 64, "float32"))
    kernel = RULE.kernel("cuda", scheme, bare(64, 64, "float32"))
    assert RULE.rounded_block(kernel, 64) is None


def test_bfloat16_is_refused() -> None:
    with pytest.raises(SchemeError, match="Wanted float32 or float16"):
        RULE.kernel("cuda", QDQ, bare(64, 64, "bfloat16"))


def test_half_precision_in_branches_is_refused(tmp_path: Path) -> None:
    """ONNX Runtime 1.31.1 fuses it, and gives zeros."""
    then, other = (f"{n}_branch = {n} () => (r) {{ r = MatMul(x, {w}) }}" for n, w in (("then", "w"), ("else", "v")))
    weights = {"w": normal(64, 32).astype(np.float16), "v": normal(64, 32).astype(np.float16)}
    proto = model(f"y = If (b) <{then}, {other}>", x="float16[M, 64] x, bool b", y="float16[M, 32] y", opset=21, ir=10,
                  constants=weights)  # fmt: skip
    source = write(proto, tmp_path / "in.onnx")
    with pytest.raises(SchemeError, match=r"gives zeros.*then_branch of If.*'format': 'matmulnbits'"):
        onnxfq.quantize(source, tmp_path / "out.onnx", format="qdq", validate=False)


def test_two_bits_of_outputs_that_are_no_multiple_of_4_are_refused(tmp_path: Path) -> None:
    """ONNX Runtime 1.31.1 turns such weights wrongly; 4 bits of the same are right."""
    scheme = Scheme(2, 32, symmetric=True, format="qdq")
    for n in (61, 62, 63):
        with pytest.raises(SchemeError, match=rf"no multiple of 4 \(got 'node' with {n}\).*'bits': 4"):
            RULE.kernel("cpu", scheme, bare(n, 64, "float32"))
    assert RULE.kernel("cpu", scheme, bare(64, 64, "float32")).bits == 2
    source = write(model("y = MatMul (x, w)", y="float[M, 30] y", w=normal(64, 30)), tmp_path / "in.onnx")
    models.quantized_by_rtn(source, scheme=scheme, schemes={"y": {"bits": 4}}, allow_slow=True)
    assert products_that_run(tmp_path / "out.onnx") == 1


def test_a_model_that_cannot_be_raised_is_refused_before_any_work(tmp_path: Path) -> None:
    body = "m, a, b, c, d = BatchNormalization (x, s, s, s, s)  y = MatMul (m, w)"
    proto = model(body, opset=11, w=W, s=np.ones(64, np.float32))
    with pytest.raises(ModelError, match=r"operator set 21.*outputs of training.*choose another format"):
        onnxfq.inspect(write(proto, tmp_path / "in.onnx"), scheme=QDQ)


def test_the_scheme_that_is_nearest_has_the_same_format() -> None:
    slow = Scheme(2, 256, symmetric=True, format="qdq")
    nearest = RULE.nearest_fast("cpu", slow, bare(64, 4096, "float32"))
    assert nearest is None or nearest.format == "qdq"


def test_one_wrong_code_is_noticed() -> None:
    kernel = RULE.kernel("cpu", QDQ, bare(N, K, "float32"))
    packed = RULE.pack(codes_for(kernel), kernel)
    q = RULE.unpack(packed, kernel, K)
    packed["W"][3, 7] ^= 1
    other = RULE.unpack(packed, kernel, K)
    assert fingerprint(q.codes, q.scale, q.zero_point) != fingerprint(other.codes, other.scale, other.zero_point)
    assert q.scale.dtype == np.float32
    assert packed["scales"].dtype == STORED_TYPES["float32"]
