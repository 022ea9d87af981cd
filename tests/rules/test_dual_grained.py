"""Weights of 4 bits for products of int8: their bytes, and what ONNX Runtime makes of the nodes that unpack them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxfq.arrays import Array
from onnxfq.dual_grain import MOST, REACH, TOP, DualGrid
from onnxfq.errors import SchemeError, VerificationError
from onnxfq.packing import fingerprint, join_digests
from onnxfq.pipeline import quantize
from onnxfq.quantization.expected import Expected
from onnxfq.quantization.verify import verify
from onnxfq.quantized import QuantizedWeight
from onnxfq.rules import PRODUCT_RULES, Kernel, take_rows, tensor_bytes
from onnxfq.scheme import BLOCK_SIZES, ScaleType, Scheme
from onnxfq.session import Session
from support import models
from support.kernels import bare
from support.models import model

RULE = PRODUCT_RULES["dgq"]
OPSETS = (13, 14, 17, 18, 20, 21, 23)
FOLDED = {"Mod", "BitShift", "Concat", "Sub", "Add", "Slice", "Reshape", "Transpose", "DequantizeLinear", "MatMul"}


def kernel_for(block_size: int, k: int, scale_type: ScaleType = "float32") -> Kernel:
    return RULE.kernel("cpu", Scheme(block_size=block_size, format="dgq"), bare(8, k, scale_type))


def codes_for(kernel: Kernel, n: int, k: int, seed: int = 0) -> QuantizedWeight:
    """Any codes on any dual grid; the ends of int8 are among them."""
    rng = np.random.default_rng(seed)
    grid = n, -(-k // kernel.block_size)
    multiplier = rng.integers(1, MOST + 1, grid)
    offset = rng.integers(-REACH, REACH - TOP * multiplier + 1)
    offset[0, 0], offset[-1, -1] = -REACH, REACH - TOP * multiplier[-1, -1]
    codes = rng.integers(0, 16, (n, k), np.uint8)
    codes[0, 0], codes[-1, -1] = 0, TOP
    scale = rng.uniform(0.5, 2, n).astype(np.float32)
    return DualGrid(scale, multiplier.astype(np.float32), offset.astype(np.float32)).quantized(codes, kernel.block_size)


def digest(q: QuantizedWeight) -> str:
    return fingerprint(q.codes, q.scale, q.zero_point)


# Packing


@settings(max_examples=60)
@given(
    n=st.integers(1, 9), k=st.integers(1, 300), block_size=st.sampled_from(BLOCK_SIZES), rows=st.slices(9),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_unpack_undoes_pack(n: int, k: int, block_size: int, rows: slice, seed: int) -> None:
    kernel = kernel_for(block_size, k)
    q = codes_for(kernel, n, k, seed)
    packed = RULE.pack(q, kernel)
    assert list(packed) == list(RULE.layout(n, k, kernel))
    assert RULE.fits(packed, n, k, kernel)
    assert not RULE.fits(packed, n + 1, k, kernel)
    assert RULE.nbytes(n, k, kernel) == tensor_bytes(packed)
    back = RULE.unpack(packed, kernel, k)
    assert digest(back) == digest(q)
    np.testing.assert_array_equal(back.row_scale, q.row_scale)
    assert (back.bits, back.block_size, back.scale_type, back.symmetric) == (4, kernel.block_size, "float32", False)
    if rows.step in (None, 1) and len(range(n)[rows]):
        part = RULE.unpack(take_rows(packed, rows), kernel, k)
        np.testing.assert_array_equal(part.dequantize(), q.dequantize()[rows])


def test_every_bit_of_the_codes_counts() -> None:
    kernel = kernel_for(32, 64)
    packed = RULE.pack(codes_for(kernel, 2, 64), kernel)
    flat, seen = packed["codes"].reshape(-1), set[str]()
    for bit in range(8 * flat.size):
        flat[bit // 8] ^= 1 << bit % 8
        seen.add(digest(RULE.unpack(packed, kernel, 64)))
        flat[bit // 8] ^= 1 << bit % 8
    assert len(seen) == 8 * flat.size


@pytest.mark.parametrize(("block_size", "k", "wanted"), [(32, 64, 32), (256, 40, 64), (128, 16, 16), (64, 65, 64)])
def test_blocks_beyond_a_row_are_the_smallest_that_holds_it(block_size: int, k: int, wanted: int) -> None:
    assert kernel_for(block_size, k).block_size == wanted


# Kernels


@pytest.mark.parametrize("scale_type", ["float32", "float16"])
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_the_probe_finds_that_the_kernel_computes_what_its_codes_say(block_size: int, scale_type: ScaleType) -> None:
    for k in (280, 2 * block_size):
        kernel = kernel_for(block_size, k, scale_type)
        tensors = RULE.pack(codes_for(kernel, 19, k), kernel)
        assert probe_error(tensors, kernel, 19, k) <= 1, k


def test_the_probe_notices_codes_that_are_not_those_it_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = kernel_for(32, 280)
    packed = RULE.pack(codes_for(kernel, 19, 280), kernel)
    meant = RULE.unpack(packed, kernel, 280)
    monkeypatch.setattr(type(RULE), "unpack", lambda *_: meant)
    for name in ("codes", "multipliers", "offsets"):
        assert probe_error({**packed, name: packed[name] ^ 8}, kernel, 19, 280) > 1


def probe_error(tensors: dict[str, Array], kernel: Kernel, n: int, k: int) -> float:
    """How far the kernel is from what the codes say, in parts of how far it may be."""
    probe = RULE.probe(tensors, kernel, n, k)
    (got,) = Session(probe.model, provider="cpu").run(dict(probe.feed)).values()
    return float(((got - probe.expected) ** 2).sum() / (probe.expected**2).sum()) / probe.tolerance


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bits": 8}, r"format dgq has bits=4 \(got bits=8\)\. Leave that out"),
        ({"bits": 2}, r"format dgq has bits=4 \(got bits=2\)"),
        ({"symmetric": True}, r"format dgq has symmetric=false \(got symmetric=true\)"),
        ({"activations": "float"}, r"format dgq has activations=int8 \(got activations=float\)"),
        ({"block_size": "channel"}, r"weights in blocks \(got block_size=channel\)\. Use 16, 32, 64, 128 or 256"),
        ({"block_size": "tensor"}, r"weights in blocks \(got block_size=tensor\)"),
    ],
)
def test_schemes_that_do_not_exist(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SchemeError, match=words):
        Scheme(**changes, format="dgq")


def test_where_there_are_no_products_of_int8() -> None:
    with pytest.raises(SchemeError, match=r"no products of int8 on cuda .*Use `format=\"matmulnbits\"` there"):
        RULE.kernel("cuda", Scheme(format="dgq"), bare(64, 64, "float32"))


# Graphs


def product_model(
    k: int, opset: int, dtype: npt.DTypeLike = np.float32, body: str = "y = MatMul (x, w)"
) -> onnx.ModelProto:
    kind = "float" if dtype == np.float32 else "float16"
    weight = models.normal(k, 48).astype(dtype)
    return model(body, x=f"{kind}[M, {k}] x", y=f"{kind}[M, 48] y", opset=opset, ir=10 if opset > 20 else 8, w=weight)


def quantized(proto: onnx.ModelProto, folder: Path, **changes: Any) -> Path:
    source, output = models.write(proto, folder / "in.onnx"), folder / "out.onnx"
    settings: dict[str, Any] = {"algorithm": "hqq", "provider": "cpu", "validate": False, "format": "dgq"} | changes
    report = quantize(source, output, **settings)
    assert report.targets
    assert report.output is not None
    return output


def optimized(path: Path) -> list[str]:
    """Operators of what ONNX Runtime makes of a model."""
    options, found = onnxruntime.SessionOptions(), path.with_name("optimized.onnx")
    options.optimized_model_filepath, options.log_severity_level = str(found), 4
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(found).graph.node]


def decoded(path: Path) -> Array:
    """The weight [K, N] that a file's constants stand for, computed by ONNX's own nodes as they are written."""
    proto = onnx.load(path)
    value = next(node for node in proto.graph.node if node.op_type == "DequantizeLinear" and node.attribute).output[0]
    del proto.graph.output[:]
    proto.graph.output.add(name=value)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = session.get_inputs()[0]
    dtype = np.float32 if x.type == "tensor(float)" else np.float16
    (values,) = session.run(None, {x.name: np.ones((1, x.shape[1]), dtype)})
    return np.array(values)


def rounded(x: Array) -> Array:
    """Rows as the product takes them."""
    step = np.abs(x).max(axis=1, keepdims=True) / 127
    return np.asarray(np.rint(x / step) * step)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("opset", OPSETS)
def test_everything_is_folded_into_one_product_of_int8(opset: int, dtype: npt.DTypeLike, tmp_path: Path) -> None:
    for block_size, k in ((32, 96), (64, 100)):
        path = quantized(product_model(k, opset, dtype), tmp_path, block_size=block_size)
        x = models.normal(5, k).astype(dtype)
        got = models.run(path, {"x": x})["y"].astype(np.float64)
        weight = decoded(path).astype(np.float64)
        expected = rounded(x.astype(np.float64)) @ weight
        np.testing.assert_allclose(got, expected, atol=(1e-5 if dtype == np.float32 else 2e-3) * np.abs(expected).max())
        exact = x.astype(np.float64) @ models.normal(k, 48).astype(np.float64)
        assert ((got - exact) ** 2).sum() < 0.02 * (exact**2).sum()
        nodes = optimized(path)
        assert FOLDED.isdisjoint(nodes), nodes
        assert nodes.count("MatMulIntegerToFloat") == 1


def test_models_for_older_operator_sets_are_converted(tmp_path: Path) -> None:
    path = quantized(product_model(64, 12), tmp_path)
    assert [entry.version for entry in onnx.load(path).opset_import if not entry.domain] == [13]


def test_what_is_written(tmp_path: Path) -> None:
    source = product_model(2048, 17)
    path = quantized(source, tmp_path)
    again = tmp_path / "again"
    again.mkdir()
    assert quantized(source, again).read_bytes() == path.read_bytes()
    stored = {t.name: t for t in onnx.load(path).graph.initializer}
    assert stored["w_Q4"].data_type == onnx.TensorProto.UINT8
    assert list(stored["w_Q4"].dims) == [48, 64, 16]
    assert list(stored["w_multipliers"].dims) == list(stored["w_offsets"].dims) == [48, 64, 1]
    assert list(stored["w_scales"].dims) == [48]
    twice = quantize(path, tmp_path / "twice.onnx", format="dgq", algorithm="rtn", validate=False)
    assert not twice.targets
    assert "already quantized" in twice.skipped[0].reason
    assert twice.output is None
    assert not (tmp_path / "twice.onnx").exists()


def test_products_that_share_a_weight_unpack_it_once(tmp_path: Path) -> None:
    body = "a = MatMul (x, w)  b = Relu (x)  c = MatMul (b, w)  y = Add (a, c)"
    path = quantized(product_model(64, 17, body=body), tmp_path)
    assert [node.op_type for node in onnx.load(path).graph.node].count("BitShift") == 1
    assert optimized(path).count("MatMulIntegerToFloat") == 2


def test_in_a_branch(tmp_path: Path) -> None:
    proto = product_model(64, 17, body="y = Identity (x)")
    inner = product_model(64, 17).graph
    branches = []
    for name in ("then", "else"):
        branch = onnx.helper.make_graph(
            inner.node, name, [], [onnx.helper.make_value_info(f"y_{name}", inner.output[0].type)]
        )
        branch.node[0].output[0] = f"y_{name}"
        branches.append(branch)
    proto.graph.input.add().CopyFrom(onnx.helper.make_tensor_value_info("choice", onnx.TensorProto.BOOL, []))
    choice = onnx.helper.make_node("If", ["choice"], ["y"], then_branch=branches[0], else_branch=branches[1])
    del proto.graph.node[:]
    proto.graph.node.append(choice)
    path, x = quantized(proto, tmp_path), models.normal(5, 64)
    for choose in (True, False):
        got = models.run(path, {"x": x, "choice": np.array(choose)})["y"]
        exact = x @ models.normal(64, 48)
        assert ((got - exact) ** 2).sum() < 0.02 * (exact**2).sum()


def test_rows_in_several_chunks_give_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = quantized(product_model(96, 17), tmp_path).read_bytes()
    monkeypatch.setattr("onnxfq.packing.CHUNK_WEIGHTS", 96)
    assert quantized(product_model(96, 17), tmp_path).read_bytes() == whole


def test_a_file_that_says_something_else_is_noticed(tmp_path: Path) -> None:
    path = quantized(product_model(64, 17), tmp_path)
    proto = onnx.load(path)
    stored = {t.name: t for t in proto.graph.initializer}
    kernel = kernel_for(32, 64)
    names = {"codes": "w_Q4", "multipliers": "w_multipliers", "offsets": "w_offsets", "scales": "w_scales"}
    q = RULE.unpack({name: onnx.numpy_helper.to_array(stored[at]) for name, at in names.items()}, kernel, 64)
    node = next(node for node in proto.graph.node if node.op_type == "MatMul").name
    expected = Expected(node, RULE, 0, names, 48, 64, kernel, join_digests([digest(q)]), {"axis": 1})
    assert verify(path, [expected], "cpu") == 1
    for name in ("w_Q4", "w_multipliers", "w_offsets", "w_scales"):
        other = onnx.load(path)
        tensor = next(t for t in other.graph.initializer if t.name == name)
        raw = bytearray(tensor.raw_data)
        raw[0] ^= 1
        tensor.raw_data = bytes(raw)
        models.write(other, tmp_path / "wrong.onnx")
        with pytest.raises(VerificationError, match="decodes to other codes"):
            verify(tmp_path / "wrong.onnx", [expected], "cpu")
