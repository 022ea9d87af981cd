"""Experts: a batch that all compute at once, matrices that are looked up, parts of a stack, and MoE."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxfq.calibration.checkpoint import Checkpoint
from onnxfq.errors import SchemeError
from onnxfq.graph import Fed, Graph, single_node
from onnxfq.pipeline import inspect
from onnxfq.quantization.find import find
from onnxfq.rules import Kernel
from onnxfq.rules.qmoe import QMoE
from onnxfq.scheme import Scheme
from onnxfq.session import Session
from support import models
from support.kernels import kernel_name, offered
from support.models import Array, K, N, grid, model, normal, proven, reasons
from support.resuming import record, stop
from support.weights import random_codes

E = 4
BATCH = np.stack([grid(seed=seed) for seed in range(E)])  # [4, 64, 32]
FED: dict[str, tuple[str, tuple[int, ...]]] = {
    "a matrix for each": ("float[4, M, 64] x", (E, 3, K)),
    "one for all": ("float[1, M, 64] x", (1, 3, K)),
    "one for all, without an axis": ("float[M, 64] x", (3, K)),
    "several batches": ("float[B, 4, M, 64] x", (2, E, 3, K)),
    "several batches of one": ("float[B, 1, M, 64] x", (2, 1, 3, K)),
    "nobody knows how many": ("float[Q, M, 64] x", (E, 3, K)),
    "nobody knows that it is one": ("float[Q, M, 64] x", (1, 3, K)),
    "no rows": ("float[4, M, 64] x", (E, 0, K)),
}


def batch(inputs: str = "float[4, M, 64] x", body: str = "y = MatMul (x, w)", opset: int = 17) -> onnx.ModelProto:
    rank = inputs.count(",") + 1
    axes = ", ".join(f"D{index}" for index in range(max(3, rank) - 1))
    return model(body, x=inputs, y=f"float[{axes}, 32] y", opset=opset, w=BATCH)


def assert_twice_is_once(output: Path) -> None:
    again = models.quantized_by_rtn(output, output.with_name("twice.onnx"))
    assert (again.targets, again.output) == ((), None)
    assert any(skip.quantized for skip in again.skipped)


# A batch


@pytest.mark.parametrize("fed", FED)
def test_a_product_for_each_of_a_batch(fed: str, tmp_path: Path) -> None:
    inputs, shape = FED[fed]
    feed = {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    outcome = proven(batch(inputs), tmp_path, targets=E, feed=feed)
    assert outcome.op_types.count("MatMulNBits") == E
    assert "w" not in outcome.initializers
    names = [target.name for target in outcome.report.targets]
    assert names == [f"y[{index}]" for index in range(E)]
    assert sum(target.float_bytes for target in outcome.report.targets) == BATCH.nbytes
    assert outcome.report.size.target_float_bytes == BATCH.nbytes
    assert_twice_is_once(outcome.output)


@pytest.mark.parametrize("opset", [8, 11, 13, 17, 18, 21])
@pytest.mark.parametrize("fed", ["a matrix for each", "one for all, without an axis"])
def test_a_batch_in_every_operator_set(fed: str, opset: int, tmp_path: Path) -> None:
    inputs, shape = FED[fed]
    proven(batch(inputs, opset=opset), tmp_path, targets=E, feed={"x": normal(*shape)})


def test_a_batch_in_an_operator_set_without_expand(tmp_path: Path) -> None:
    body = "z = MatMul (x, w)  v = MatMul (x, u)  s = Add (v, v)  y = Add (z, s)"
    proto = batch("float[Q, M, 64] x", body, opset=7)
    proto.graph.initializer.append(models.tensor(grid(), "u"))
    told = reasons(proven(proto, tmp_path, feed={"x": normal(E, 3, K)}).report)
    assert told == {
        "z": "unsupported shape: the weight is a batch of matrices [4, 64, 32], and this operator set has no Expand"
    }


def test_a_batch_beside_something_of_unknown_rank(tmp_path: Path) -> None:
    body = "z = Reshape (x, s)  p = MatMul (z, w)  q = MatMul (x, u)  y = Add (p, q)"
    proto = batch("float[M, 64] x, int64[R] s", body)
    proto.graph.initializer.append(models.tensor(grid(), "u"))
    told = reasons(proven(proto, tmp_path, feed={"x": normal(3, K), "s": models.whole(3, K)}).report)
    assert told["p"].endswith("and nothing tells that what it multiplies is a matrix, or several")


def test_a_batch_that_is_turned(tmp_path: Path) -> None:
    body = "t = Transpose <perm = [0, 2, 1]> (w)  y = MatMul (x, t)"
    proto = model(body, x="float[4, M, 64] x", y="float[4, M, 32] y", w=np.ascontiguousarray(BATCH.transpose(0, 2, 1)))
    proven(proto, tmp_path, targets=E)


def test_settings_by_name_are_about_all_of_a_batch(tmp_path: Path) -> None:
    proto = batch(body="z = MatMul (x, w)  y = Relu (z)")
    outcome = proven(proto, tmp_path, targets=E, include="^z$", tolerance=0.1, schemes={"^z$": {"block_size": 16}})
    assert {target.block_size for target in outcome.report.targets} == {16}
    left = proven(_with_more(), tmp_path, exclude="^z$")
    assert left.report.skipped[0].reason == "excluded by the user (`exclude=^z$`)"
    assert sum(skip.float_bytes for skip in left.report.skipped) == BATCH.nbytes


def _with_more() -> onnx.ModelProto:
    proto = batch(body="z = MatMul (x, w)  v = MatMul (x, u)  y = Add (z, v)")
    proto.graph.initializer.append(models.tensor(grid(), "u"))
    return proto


def test_a_batch_is_calibrated_with_what_each_reads(tmp_path: Path) -> None:
    """Each reads inputs of its own that vary together: solved for all alike, all but one would be wrong."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((E, 6, K))
    samples = [{"x": (rng.standard_normal((E, 40, 6)) @ mixing).astype(np.float32)} for _ in range(8)]
    body = "p = MatMul (x, w)  b = Add (p, c)  y = MatMul (b, v)"
    weights = {"w": rng.standard_normal((E, K, N)).astype(np.float32), "v": normal(N, K), "c": normal(E, 1, N)}
    proto = model(body, x="float[4, 40, 64] x", y="float[4, 40, 64] y", constants=weights)
    path, found = models.write(proto, tmp_path / "in.onnx"), {}
    for algorithm in ("hqq", "gptq"):
        report = models.quantized_by_rtn(path, calib=samples, algorithm=algorithm, validate=True)
        found[algorithm] = [target.output_error or 0.0 for target in report.targets[:E]]
        assert [target.tokens for target in report.targets[:E]] == ([0] * E if algorithm == "hqq" else [8 * 40] * E)
        assert report.outputs[0].relative_mse is not None
        found[f"{algorithm} end"] = [report.outputs[0].relative_mse]
    assert found["gptq end"][0] < 0.5 * found["hqq end"][0]
    assert not any("without data" in warning for warning in report.warnings)


def test_a_batch_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off between two experts of one node; the same bytes as in one go."""
    body = "p = MatMul (x, w)  t = Tanh (p)  y = MatMul (t, v)"
    proto = model(body, x="float[4, M, 64] x", y="float[4, M, 32] y", w=normal(E, K, N), v=normal(E, N, N))
    path = models.write_external(proto, tmp_path / "in.onnx")
    rng = np.random.default_rng(0)
    samples = [{"x": rng.standard_normal((E, 20, K)).astype(np.float32)} for _ in range(4)]
    given: dict[str, Any] = {"calib": samples, "algorithm": "gptq"}
    whole = tmp_path / "whole" / "out.onnx"
    whole.parent.mkdir()
    models.quantized_by_rtn(path, whole, **given)
    given["work_dir"] = tmp_path / "work"
    with monkeypatch.context() as patch:
        stop(patch, Checkpoint, "save", 3, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            models.quantized_by_rtn(path, **given)
    saved = record(monkeypatch)
    models.quantized_by_rtn(path, resume=True, **given)
    assert len(saved) == 2 * E - 2
    written = {file.name: file.read_bytes() for file in tmp_path.glob("out.onnx*") if file.is_file()}
    assert written == {file.name: file.read_bytes() for file in whole.parent.iterdir()}


def test_one_of_a_stack_is_read_alone(tmp_path: Path) -> None:
    """Of a stack on disk, no more than the part; what is left of it stays, and is told."""
    body = "a = Gather (s, one)  b = Gather (s, two)  p = MatMul (x, a)  q = MatMul (x, b)  y = Add (p, q)"
    proto = model(body, s=BATCH, one=np.array(1), two=np.array(2))
    path = models.write_external(proto, tmp_path / "in.onnx")
    targets, _ = find(Graph.load(path), (), ())
    assert [target.weight.on_disk.leaf.piece.length for _, target in targets] == [BATCH[0].nbytes] * 2  # type: ignore[union-attr]
    np.testing.assert_array_equal(targets[1][1].load(), BATCH[2].T)
    outcome = proven(path, tmp_path, targets=2)
    assert "s" not in outcome.initializers
    assert [target.float_bytes for target in outcome.report.targets] == [BATCH[0].nbytes] * 2
    some = proven(path, tmp_path, exclude="^q$")
    assert "s" in some.initializers
    assert any("stay in floating point too" in warning for warning in some.report.warnings)
    assert some.report.size.output_bytes == sum(f.stat().st_size for f in tmp_path.glob("out.onnx*"))


def test_all_outputs_of_a_split(tmp_path: Path) -> None:
    body = "a, b = Split (s)  p = MatMul (x, a)  q = MatMul (x, b)  y = Add (p, q)"
    proto = model(body, s=np.concatenate([BATCH[0], BATCH[1]]))
    outcome = proven(proto, tmp_path, targets=2)
    assert outcome.op_types == ["MatMulNBits", "MatMulNBits", "Add"]
    assert "s" in proven(proto, tmp_path, exclude="^q$").initializers


# Looked up


def table(count: int = 3, rows: int = 512, columns: int = 256) -> Array:
    """Experts that 8 bits hold exactly, symmetrically."""
    codes = np.random.default_rng(3).integers(-128, 128, (count, rows, columns))
    codes[:, :, ::256] = -128
    return (codes / 4096).astype(np.float32)


LOOKED_UP: dict[str, tuple[str, str, dict[str, Array]]] = {
    "one": ("e = Gather (w, id)  y = MatMul (x, e)", "int64 id", {"id": np.array(2)}),
    "one, counted from behind": ("e = Gather (w, id)  y = MatMul (x, e)", "int32 id", {"id": np.array(-3, np.int32)}),
    "several": ("e = Gather (w, id)  y = MatMul (x, e)", "int64[S] id", {"id": np.array([2, 0, 2])}),
    "turned": (
        "e = Gather <axis = -3> (w, id)  t = Transpose <perm = [0, 2, 1]> (e)  u = MatMul (x, e)  y = MatMul (u, t)",
        "int64[S] id",
        {"id": np.array([1, 0])},
    ),
}  # fmt: skip


def looked_up(case: str, experts: Array) -> onnx.ModelProto:
    body, ids, _ = LOOKED_UP[case]
    kind = "float16" if experts.dtype == np.float16 else "float"
    rank = ids.count("[") + 2
    axes = ", ".join(f"D{index}" for index in range(rank))
    return model(body, x=f"{kind}[M, {experts.shape[1]}] x, {ids}", y=f"{kind}[{axes}] y", w=experts)


@pytest.mark.parametrize("case", LOOKED_UP)
def test_experts_that_are_looked_up(case: str, tmp_path: Path) -> None:
    """In 8 bits whatever other weights have: fewer would be slower than floats."""
    experts = table()
    outcome = proven(looked_up(case, experts), tmp_path, feed=LOOKED_UP[case][2], embeddings="float")
    (target,), (node,) = outcome.report.targets, outcome.nodes("GatherBlockQuantized")
    assert (target.bits, target.block_size, target.float_bytes) == (8, 256, experts.nbytes)
    assert list(outcome.initializers["w_Q8"].dims) == [3, 512, 256]
    assert {a.name: a.i for a in node.attribute}["quantize_axis"] == 2
    assert "w" not in outcome.initializers
    rows = [content for content in outcome.report.contents if content.operator == "GatherBlockQuantized"]
    assert [(row.what, row.bytes) for row in rows] == [("quantized weights", target.bytes)]
    seen = inspect(outcome.source, algorithm="rtn", provider="cpu", scheme=models.EXACT)
    assert [row for row in seen.contents if row.operator == "GatherBlockQuantized"] == rows
    assert_twice_is_once(outcome.output)


def test_experts_with_columns_of_no_whole_block(tmp_path: Path) -> None:
    proven(looked_up("one", table(columns=300)), tmp_path, feed=LOOKED_UP["one"][2])


def test_experts_that_are_looked_up_in_a_loop(tmp_path: Path) -> None:
    body = """b (int64 i, bool go, float[M, 512] h) => (bool on, float[M, 512] o)
        { on = Identity (go)  e = Gather (w, i)  m = MatMul (h, e)  t = Transpose (e)  o = MatMul (m, t) }"""
    proto = model(f"y = Loop <body = {body}> (trip, yes, x)", x="float[M, 512] x", y="float[M, 512] y",
                  w=table(), trip=np.array(3), yes=np.array(True))  # fmt: skip
    outcome = proven(proto, tmp_path)
    assert [target.operator for target in outcome.report.targets] == ["GatherBlockQuantized"]


SOONER = "taking so few from codes is slower than from floats (fewer than 131072)"
LEFT_ALONE: dict[str, tuple[Array, str]] = {
    "small": (table(rows=64), f"experts of 16384 values: {SOONER}"),
    "float16": (
        table().astype(np.float16),
        "experts in float16 that are looked up: taking them from codes is slower than from floats",
    ),
}


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_experts_that_floats_give_sooner(case: str, tmp_path: Path) -> None:
    experts, reason = LEFT_ALONE[case]
    proto = looked_up("one", experts)
    proto.graph.initializer.append(models.tensor(grid(experts.shape[2], 32).astype(experts.dtype), "v"))
    proto.graph.node[-1].output[0] = "z"
    proto.graph.node.append(onnx.helper.make_node("MatMul", ["z", "v"], ["y"]))
    outcome = proven(proto, tmp_path, feed=LOOKED_UP["one"][2], tolerance=0.01)
    told = {skip.name: (skip.reason, skip.float_bytes) for skip in outcome.report.skipped}
    assert told["e"] == (reason, experts.nbytes)


def test_experts_that_are_to_have_few_bits_are_slow(tmp_path: Path) -> None:
    path = models.write(looked_up("one", table()), tmp_path / "in.onnx")
    few: dict[str, Any] = {"schemes": {"^e$": {"bits": 4, "block_size": 32}}}
    with pytest.raises(
        SchemeError, match=r"experts that are looked up in less than 8 bits .* The nearest fast scheme is int8"
    ):
        models.quantized_by_rtn(path, **few)
    report = models.quantized_by_rtn(path, allow_slow=True, **few)
    assert [(target.bits, target.speed) for target in report.targets] == [(4, "slow")]


# MoE


HIDDEN, INNER = 64, 32


def experts(
    activation: str = "silu", *, normalized: int = 1, bias: bool = True, half: bool = False, inner: int = INNER,
    attributes: str = "", width: int = 0,
) -> onnx.ModelProto:  # fmt: skip
    """One MoE of four experts, of which two are chosen."""
    kind = np.float16 if half else np.float32
    width = width or (2 if activation == "swiglu" else 1)
    weights = {
        "first": grid(HIDDEN, E * width * inner, seed=4).T.reshape(E, width * inner, HIDDEN),
        "second": grid(inner, E * HIDDEN, seed=5).T.reshape(E, HIDDEN, inner),
        "b1": normal(E, width * inner),
        "b2": normal(E, HIDDEN),
    }
    names = ("first", "b1", "second", "b2") if bias else ("first", "none", "second")
    body = (
        f'moe = com.microsoft.MoE <k = 2, activation_type = "{activation}", normalize_routing_weights = {normalized}'
        f"{attributes}> (x, router, {', '.join(names)})  y = Identity (moe)"
    )
    name = "float16" if half else "float"
    kept = {key: np.ascontiguousarray(array.astype(kind)) for key, array in weights.items() if key in names}
    proto = model(body, x=f"{name}[M, 64] x, {name}[M, 4] router", y=f"{name}[M, 64] y", opset=17,
                  domains=', "com.microsoft" : 1', constants=kept)  # fmt: skip
    proto.graph.node[0].input[:] = ["" if given == "none" else given for given in proto.graph.node[0].input]
    return proto


MOES: dict[str, dict[str, Any]] = {
    **{name: {"activation": name} for name in ("relu", "gelu", "silu", "identity")},
    "swiglu": {"activation": "swiglu", "attributes": ", swiglu_fusion = 1"},
    "swiglu with a limit": {
        "activation": "swiglu",
        "attributes": ", swiglu_fusion = 1, swiglu_limit = 7.0, activation_alpha = 1.702, activation_beta = 1.0",
    },
    "weights that are not normalized": {"normalized": 0},
    "without a bias": {"bias": False},
    "sparse mixer": {"attributes": ", use_sparse_mixer = 1"},
    "float16": {"half": True},
}


@pytest.mark.parametrize("case", MOES)
def test_moe_computes_the_same(case: str, tmp_path: Path) -> None:
    tolerance = 0.02 if case == "float16" else 1e-5
    outcome = proven(experts(**MOES[case]), tmp_path, targets=2, tolerance=tolerance)
    (node,) = outcome.nodes("QMoE")
    assert [target.name for target in outcome.report.targets] == ["moe[fc1]", "moe[fc2]"]
    assert len(outcome.nodes("Softmax")) == (case == "weights that are not normalized")
    assert not {"first", "second"} & outcome.initializers.keys()
    assert outcome.initializers[node.input[2]].dims[0] == E
    assert outcome.report.size.target_float_bytes == sum(t.float_bytes for t in outcome.report.targets)
    before = {a.name: onnx.helper.get_attribute_value(a) for a in onnx.load(outcome.source).graph.node[0].attribute}
    after = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert before.items() <= after.items()
    assert_twice_is_once(outcome.output)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("block_size", [32, 64, "channel", "tensor"])
def test_moe_in_every_scheme(bits: int, symmetric: bool, block_size: Any, tmp_path: Path) -> None:  # noqa: ANN401
    """Where blocks are as large as asked for, or as large as both sizes of an expert allow."""
    path = models.write(experts(inner=96), tmp_path / "in.onnx")
    report = models.quantized_by_rtn(path, scheme=Scheme(bits, block_size, symmetric))
    assert [(target.bits, target.block_size) for target in report.targets] == [(bits, 32)] * 2
    models.compare(path, tmp_path / "out.onnx", tolerance={8: 0.02, 4: 0.2, 2: 1.0}[bits])


def test_moe_is_calibrated_with_all_that_it_reads(tmp_path: Path) -> None:
    """The first layer with all tokens of the node, whoever computes them; the second without data, and told."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((6, HIDDEN))
    samples = [{"x": (rng.standard_normal((40, 6)) @ mixing).astype(np.float32),
                "router": rng.standard_normal((40, E)).astype(np.float32)} for _ in range(6)]  # fmt: skip
    proto = experts()
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(models.tensor(rng.standard_normal(tuple(tensor.dims)).astype(np.float32), tensor.name))
    path, found = models.write(proto, tmp_path / "in.onnx"), {}
    for algorithm in ("hqq", "gptq"):
        report = models.quantized_by_rtn(path, calib=samples, algorithm=algorithm, validate=True)
        found[algorithm] = report.outputs[0].relative_mse or 1.0
    assert [target.tokens for target in report.targets] == [6 * 40, 0]
    assert any("'moe[fc2]'" in warning and "without data" in warning for warning in report.warnings)
    assert found["gptq"] < 0.8 * found["hqq"]


MOE_SKIPS: dict[str, tuple[dict[str, Any], str]] = {
    "swiglu apart": ({"activation": "swiglu", "attributes": ", swiglu_fusion = 2"},
                     "QMoE computes swiglu with swiglu_fusion=1 only, not 2"),
    "swiglu unfused": ({"activation": "swiglu"}, "QMoE computes swiglu with swiglu_fusion=1 only, not 0"),
    "activation": ({"activation": "tanh"},
                   "QMoE knows no activation 'tanh' (it has relu, gelu, silu, swiglu, identity)"),
    "shapes": ({"width": 3}, "unsupported shape: experts of [4, 96, 64] and [4, 64, 32]"),
    "no blocks": ({"inner": 40}, "unsupported shape: QMoE wants sizes in whole blocks of 16 or more (got 64 and 40)"),
}  # fmt: skip


@pytest.mark.parametrize("case", [*MOE_SKIPS, "third weight", "fed", "bfloat16"])
def test_moe_that_is_left_alone(case: str, tmp_path: Path) -> None:
    given, reason = MOE_SKIPS.get(case, ({}, ""))
    proto = experts(**given)
    node, weights = proto.graph.node[0], {tensor.name: tensor for tensor in proto.graph.initializer}
    nbytes = sum(len(weights[name].raw_data) for name in ("first", "second"))
    if case == "third weight":
        node.input.append("first")
        reason = "its experts have a third weight (FC3), which ONNX Runtime's QMoE does not compute"
    if case == "fed":
        proto.graph.initializer.remove(weights["second"])
        proto.graph.input.append(onnx.helper.make_tensor_value_info("second", 1, [E, HIDDEN, INNER]))
        reason, nbytes = "no constant weight: both inputs are computed at run time", 0
    if case == "bfloat16":
        for tensor in weights.values():
            tensor.CopyFrom(models.tensor(onnx.numpy_helper.to_array(tensor).astype(models.BFLOAT16), tensor.name))
        reason, nbytes = "unsupported type: bfloat16 weights (QMoE computes in float32 or float16)", nbytes // 2
    _, (skip,) = find(Graph.load(models.write(proto, tmp_path / "in.onnx")), (), ())
    assert (skip.reason, skip.nbytes) == (reason, nbytes)


def test_moe_whose_caller_chooses(tmp_path: Path) -> None:
    function = """<domain: "local", opset_import: ["" : 17, "com.microsoft" : 1]> some <chosen> (x, router, a, b) => (y)
        { y = com.microsoft.MoE <k: int = @chosen> (x, router, a, none, b) }"""
    proto = experts()
    proto.graph.node[0].CopyFrom(
        onnx.helper.make_node("some", ["x", "router", "first", "second"], ["moe"], domain="local", chosen=2)
    )
    parsed = model("y = Identity (x)", domains=', "local" : 1', functions=function)
    parsed.functions[0].node[0].input[3] = ""
    proto.functions.extend(parsed.functions)
    proto.opset_import.extend(parsed.opset_import[1:])
    _, (skip,) = find(Graph.load(models.write(proto, tmp_path / "in.onnx")), (), ())
    assert skip.reason.startswith("the caller of ")
    assert skip.reason.endswith(" chooses its k")


@pytest.mark.parametrize("kernel", offered(QMoE(), k=512), ids=kernel_name)
def test_every_kernel_computes_experts_of_the_dequantized_weights(kernel: Kernel) -> None:
    """Of other sizes than the probe's, several experts, chosen by softmax and weighed: written down in numpy."""
    rule, hidden, inner, rows = QMoE(), 2 * kernel.block_size, kernel.block_size, 5
    kind = np.dtype(kernel.activation_type)
    shapes = ((E * inner, hidden), (E * hidden, inner))
    weights = [random_codes(n, k, kernel.bits, kernel.block_size, symmetric=kernel.symmetric, seed=n,
                            scale_type=kernel.activation_type) for n, k in shapes]  # fmt: skip
    weights = [replace(q, scale=(q.scale / np.abs(q.dequantize()).max() / 4).astype(kind).astype(np.float32))
               for q in weights]  # fmt: skip
    first, second = (q.dequantize().astype(np.float64).reshape(E, -1, q.shape[1]) for q in weights)
    rng = np.random.default_rng(2)
    x, router = (rng.standard_normal((rows, size)).astype(kind) for size in (hidden, E))
    inputs: dict[str, Fed | Array | None] = {"x": Fed(kind, ("M", hidden)), "router": Fed(kind, ("M", E))}
    packed = [rule.pack(q, kernel) for q in weights]
    held = {i: packed[slot].get(name) for slot in (0, 1) for name, i in rule.positions(slot).items()}
    for i in range(2, 13 if not kernel.symmetric else 7):
        array = held.get(i)
        inputs[f"i{i}"] = None if array is None else array.reshape(E, -1, array.shape[-1])
    attributes = rule.attributes(0, 0, kernel) | {"k": 2, "activation_type": "relu", "normalize_routing_weights": 1}
    proto = single_node("QMoE", "com.microsoft", inputs, attributes, output=kind)
    (got,) = Session(proto, provider="cpu").run({"x": x, "router": router}).values()
    wanted = np.zeros((rows, hidden))
    for row in range(rows):
        logits = router[row].astype(np.float64)
        best = np.argsort(-logits)[:2]
        shares = np.exp(logits[best]) / np.exp(logits[best]).sum()
        for share, expert in zip(shares, best, strict=True):
            wanted[row] += share * second[expert] @ np.maximum(first[expert] @ x[row].astype(np.float64), 0.0)
    assert ((got - wanted) ** 2).sum() < 2e-3 * (wanted**2).sum()
    if kernel.accuracy_level == 0:
        assert ((got - wanted) ** 2).sum() < 1e-5 * (wanted**2).sum()


def test_moe_that_has_no_kernel(tmp_path: Path) -> None:
    path = models.write(experts(), tmp_path / "in.onnx")
    with pytest.raises(SchemeError, match=r"QMoE rounds activations to int8 where weights have 8 bits .* or 4 bits"):
        models.quantized_by_rtn(path, scheme=Scheme(8, activations="float"))
    with pytest.raises(SchemeError, match=r"QMoE of 2 bits in blocks of 16 takes .* nearest fast scheme is int4"):
        models.quantized_by_rtn(path, scheme=Scheme(2, 16))
