"""Weights that are small in the file and floats once loaded: what ONNX Runtime makes of them, and which stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import onnxfq
from onnxfq.arrays import Array
from onnxfq.errors import ModelError, SchemeError, UsageError, VerificationError
from onnxfq.quantization.others import LARGEST_ERROR
from onnxfq.rules import stored_nodes
from onnxfq.weight_formats import FORMATS, Format
from support.models import branch, compare, feeds, model, normal, reasons, run, tensor, whole, write, write_external

MS = ', "com.microsoft" : 1'
Restore = Callable[[Array, tuple[int, ...]], Array]


def rows(matrix: Array, shape: tuple[int, ...]) -> Array:
    return matrix.reshape(shape)


def columns(matrix: Array, shape: tuple[int, ...]) -> Array:
    """Sums over the last axis but one."""
    return matrix.reshape(*shape[:-2], shape[-1], shape[-2]).swapaxes(-1, -2)


def grouped(matrix: Array, shape: tuple[int, ...]) -> Array:
    """[2 groups · inputs, outputs, height, width]."""
    return matrix.reshape(2, shape[1], shape[0] // 2, *shape[2:]).swapaxes(1, 2).reshape(shape)


@dataclass(frozen=True)
class Case:
    """A node, its input, its weights, and how each of these comes of rows of codes."""

    body: str
    x: str
    weights: dict[str, tuple[int, ...]]
    restore: Restore = rows
    domains: str = ""
    opset: int = 17
    more: dict[str, Array] | None = None


CASES = {
    "Conv": Case("y = Conv(x, w)", "float[1, 8, 9, 9] x", {"w": (20, 8, 3, 3)}),
    "Conv of groups": Case("y = Conv<group = 4>(x, w)", "float[1, 64, 5, 5] x", {"w": (32, 16, 3, 3)}),
    "Conv 1-D": Case("y = Conv(x, w)", "float[2, 24, 30] x", {"w": (33, 24, 5)}),
    "ConvTranspose": Case(
        "y = ConvTranspose(x, w)", "float[1, 20, 5, 5] x", {"w": (20, 8, 3, 3)},
        lambda m, s: m.reshape(s[1], s[0], *s[2:]).swapaxes(0, 1),
    ),
    "ConvTranspose of groups": Case(
        "y = ConvTranspose<group = 2>(x, w)", "float[1, 20, 5, 5] x", {"w": (20, 8, 3, 3)}, grouped
    ),
    "DeformConv": Case(
        "y = DeformConv(x, w, o)", "float[1, 8, 5, 5] x", {"w": (32, 8, 3, 3)}, opset=19,
        more={"o": np.full((1, 18, 3, 3), 0.25, np.float32)},
    ),
    "LSTM": Case(
        "a, b, y = LSTM<hidden_size = 24>(x, w, r)", "float[5, 2, 40] x", {"w": (1, 96, 40), "r": (1, 96, 24)}
    ),
    "LSTM both ways": Case(
        'a, b, y = LSTM<hidden_size = 24, direction = "bidirectional">(x, w, r)', "float[5, 2, 40] x",
        {"w": (2, 96, 40), "r": (2, 96, 24)},
    ),
    "GRU": Case("a, y = GRU<hidden_size = 24>(x, w, r)", "float[5, 2, 40] x", {"w": (1, 72, 40), "r": (1, 72, 24)}),
    "RNN": Case("a, y = RNN<hidden_size = 40>(x, w, r)", "float[5, 2, 48] x", {"w": (1, 40, 48), "r": (1, 40, 40)}),
    "MatMul of batches": Case("y = MatMul(x, w)", "float[6, 3, 20] x", {"w": (6, 20, 24)}, columns),
    "MatMul from the left": Case("y = MatMul(w, x)", "float[3, 20, 5] x", {"w": (3, 24, 20)}),
    "Einsum": Case(
        'y = Einsum<equation = "bhtk,hkd->bhtd">(x, w)', "float[2, 4, 3, 20] x", {"w": (4, 20, 24)}, columns
    ),
    "Gather": Case("e = Gather(w, i) y = MatMul(x, e)", "float[2, 3, 32] x, int64[2] i", {"w": (16, 32, 40)}),
    "FusedConv": Case(
        'y = com.microsoft.FusedConv<activation = "Relu">(x, w)', "float[1, 8, 9, 9] x", {"w": (20, 8, 3, 3)},
        domains=MS,
    ),
    "FusedMatMul": Case("y = com.microsoft.FusedMatMul(x, w)", "float[6, 3, 20] x", {"w": (6, 20, 24)}, columns, MS),
    "FusedMatMul turned": Case(
        "y = com.microsoft.FusedMatMul<transB = 1>(x, w)", "float[6, 3, 20] x", {"w": (6, 24, 20)}, rows, MS
    ),
    "FusedGemm": Case(
        'y = com.microsoft.FusedGemm<activation = "Relu">(x, w)', "float[6, 40] x", {"w": (40, 32)}, columns, MS
    ),
    "Attention": Case(
        "y = com.microsoft.Attention<num_heads = 2>(x, w, b)", "float[1, 3, 32] x", {"w": (32, 96)}, columns, MS,
        more={"b": np.zeros(96, np.float32)},
    ),
    "MoE": Case(
        "y = com.microsoft.MoE<k = 1>(x, p, w, , r)", "float[3, 32] x", {"w": (2, 40, 32), "r": (2, 32, 40)},
        domains=MS, more={"p": np.eye(3, 2, dtype=np.float32)},
    ),
    "gates put in another order": Case(
        "s = Slice(w, zero, mid, zero) t = Slice(w, mid, end, zero) c = Concat<axis = 0>(t, s) u = Unsqueeze(c, zero)"
        "a, y = GRU<hidden_size = 16>(x, u, r)",
        "float[5, 2, 40] x", {"w": (48, 40)},
        more={"zero": whole(0), "mid": whole(16), "end": whole(48), "r": normal(1, 48, 16)[:, :, :16]},
    ),
}  # fmt: skip


def made(case: Case, *, opset: int = 0, half: bool = False) -> onnx.ModelProto:
    """The case's model, with random weights whose channels are of different sizes."""
    rng = np.random.default_rng(3)
    weights = {n: 0.1 * rng.normal(size=s) * rng.uniform(0.1, 3, (*s[:-1], 1)) for n, s in case.weights.items()}
    floats = {**weights, **{n: v for n, v in (case.more or {}).items() if v.dtype.kind == "f"}}
    others = {n: v for n, v in (case.more or {}).items() if v.dtype.kind != "f"}
    dtype = np.float16 if half else np.float32
    constants: dict[str, Array] = {**{n: v.astype(dtype) for n, v in floats.items()}, **others}
    x = case.x.replace("float", "float16") if half else case.x
    rank = {"LSTM": 3, "GRU": 3, "RNN": 3}.get(case.body, 0)
    y = ("float16" if half else "float") + (f"[{', '.join('abcd'[:rank])}]" if rank else "")
    return model(case.body, x=x, y=f"{y} y", opset=opset or case.opset, domains=case.domains, constants=constants)


def stored(source: Path, **changes: Any) -> tuple[onnxfq.Report, Path]:
    output = source.with_name("out.onnx")
    return onnxfq.quantize(source, output, validate=False, provider="cpu", **changes), output


def matrices(output: Path, name: str, k: int) -> Array:
    """What the codes in a file stand for, [N, K] float32, by arithmetic of its own."""
    held = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(output).graph.initializer}
    scales = held[f"{name}_scales"].astype(np.float32)
    if f"{name}_Q8" in held:
        codes = held[f"{name}_Q8"].astype(np.float32)
    else:
        packed = held[f"{name}_Q4"]
        codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:2], -1).astype(np.float32) - 8
    found: Array = (codes * scales).reshape(len(codes), -1)[:, :k]
    return found


def folded(output: Path) -> list[str]:
    """Operators that are left once ONNX Runtime has made a session of a file."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(output.with_name("optimized.onnx"))
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(output), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]


def assert_as_its_codes_say(source: Path, output: Path, case: Case) -> None:
    """Assert that the output computes, bit for bit, what the source does with the dequantized weights in it."""
    oracle = onnx.load(source)
    for held in oracle.graph.initializer:
        if held.name in case.weights:
            before = onnx.numpy_helper.to_array(held)
            k = before.size // len(matrices(output, held.name, before.size))
            value = case.restore(matrices(output, held.name, k), before.shape).astype(before.dtype)
            error, size = (float(np.square(part, dtype=np.float64).sum()) for part in (value - before, before))
            assert 0 < error < 0.02 * size
            held.CopyFrom(tensor(np.ascontiguousarray(value), held.name))
    path = write(oracle, source.with_name("oracle.onnx"))
    inputs = feeds(source, {})
    for name, value in run(path, inputs).items():
        np.testing.assert_array_equal(run(output, inputs)[name], value)


@pytest.mark.parametrize("others", ["stored8", "stored4"])
@pytest.mark.parametrize("name", CASES)
def test_what_runs_is_what_the_codes_say(name: str, others: str, tmp_path: Path) -> None:
    case = CASES[name]
    source = write(made(case), tmp_path / "m.onnx")
    report, output = stored(source, others=others)
    assert {target.bits for target in report.targets} == {int(others[-1])}
    onnx.checker.check_model(str(output))
    assert_as_its_codes_say(source, output, case)
    before = run(source, feeds(source, {}))["y"]
    after = run(output, feeds(source, {}))["y"]
    assert np.square(after - before).sum() < {"stored8": 1e-3, "stored4": 0.15}[others] * np.square(before).sum()
    kinds = set(folded(output))
    assert not kinds & {"Cast", "Mul"}, "computed at every run"
    assert output.stat().st_size < source.stat().st_size


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 13, 18, 21, 23])
@pytest.mark.parametrize("others", ["stored8", "stored4"])
def test_every_operator_set_can_express_it(opset: int, others: str, tmp_path: Path) -> None:
    """With rows that are no whole blocks, and axes to be turned."""
    case = CASES["ConvTranspose"]
    source = write(made(case, opset=opset), tmp_path / "m.onnx")
    report, output = stored(source, others=others)
    assert len(report.targets) == 1
    assert_as_its_codes_say(source, output, case)
    assert not {"Cast", "Mul", "Slice", "Gather", "Transpose"} & set(folded(output))


@pytest.mark.parametrize("others", ["stored8", "stored4"])
@pytest.mark.parametrize("name", ["Conv", "ConvTranspose of groups", "LSTM", "MatMul of batches"])
def test_half_precision(name: str, others: str, tmp_path: Path) -> None:
    case = CASES[name]
    source = write(made(case, half=True), tmp_path / "m.onnx")
    try:
        run(source, feeds(source, {}))
    except Exception:  # noqa: BLE001 - whatever ONNX Runtime says: the operator has no such kernel
        pytest.skip("ONNX Runtime does not run the original")
    report, output = stored(source, others=others)
    assert {target.bits for target in report.targets} == {int(others[-1])}
    assert_as_its_codes_say(source, output, case)


def conv(body: str = "y = Conv(x, w)", weight: Array | None = None) -> onnx.ModelProto:
    held = normal(20, 8, 3, 3) if weight is None else weight
    return model(body, x="float[1, 8, 9, 9] x", y="float y", w=held)


def left(proto: onnx.ModelProto, folder: Path, **changes: Any) -> dict[str, str]:
    """Why nodes were left alone; nothing is stored small."""
    report = onnxfq.inspect(write(proto, folder / "m.onnx"), provider="cpu", **changes)
    assert not report.targets
    return reasons(report)


def test_what_is_small_or_a_vector_is_no_business_of_it(tmp_path: Path) -> None:
    assert left(conv(weight=normal(14, 8, 3, 3)), tmp_path) == {}  # 1008 values
    assert left(model("y = Conv(x, w)", x="float[1, 1, 9, 9] x", y="float y", w=normal(2000, 1, 1, 1)), tmp_path) == {}
    assert left(model("y = Add(x, w)", x="float[64, 64] x", y="float y", w=normal(64, 64)), tmp_path) == {}
    embeddings = model("y = Gather(w, x)", x="int64[M] x", y="float y", w=normal(64, 64))
    assert left(embeddings, tmp_path) == {"y": "too small: 4096 values (fewer than 16384 are not worth it)"}


def test_every_limit_is_told(tmp_path: Path) -> None:
    short = model("y = Conv(x, w)", x="float[1, 4, 9, 9] x", y="float y", w=normal(400, 4, 1, 1))
    assert left(short, tmp_path)["y"].startswith("too small: 4 weights for an output")
    double = model("y = Conv(x, w)", x="double[1, 8, 9, 9] x", y="double y", w=normal(20, 8, 3, 3).astype(np.float64))
    assert left(double, tmp_path)["y"].startswith("unsupported type: float64")
    ones = np.where(normal(20, 8, 3, 3) > 0, 1, -1).astype(np.float32)
    assert left(conv(weight=ones), tmp_path)["y"].startswith("its weights are whole numbers")
    shared = "z = Conv(x, w) s = ReduceSum<keepdims = 0>(w) y = Add(z, s)"
    assert left(conv(shared), tmp_path) == {"z": "others read its weight too, and need it in float"}
    both = model("v = Conv(u, w) y = Add(v, x)", x="float x", y="float y", u=normal(1, 8, 9, 9), w=normal(20, 8, 3, 3))
    assert left(both, tmp_path)["v"] == "both inputs are constant: nothing is computed at run time"
    old = conv()
    old.opset_import[0].version = 6
    assert left(old, tmp_path)["y"].startswith("operator set 6 is too old")
    for setting in ({"exclude": "y"}, {"include": "other|^$|n"}, {"others": "float"}):
        assert "y" in left(conv(), tmp_path, **({"exclude": ["y"]} if "include" in setting else setting))


def test_what_a_caller_may_replace_or_get_stays(tmp_path: Path) -> None:
    proto = conv()
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [20, 8, 3, 3]))
    assert left(proto, tmp_path) == {}
    report = onnxfq.inspect(tmp_path / "m.onnx", constant_inputs=True, provider="cpu")
    assert len(report.targets) == 1
    given = conv()
    given.graph.output.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [20, 8, 3, 3]))
    assert left(given, tmp_path) == {"y": "others read its weight too, and need it in float"}


def test_weights_with_outliers_get_finer_scales(tmp_path: Path) -> None:
    """As fine as keeps the error small beside the weights, whatever these are."""
    usual, large = normal(16, 64, 3, 3), normal(16, 64, 3, 3)
    large[:, 0, 0, 0] = 8
    largest = np.where(np.arange(576).reshape(64, 3, 3) % 128 == 0, np.float32(90), usual)
    for weight, granularity in ((usual, "channel"), (large, 128), (largest, 32)):
        proto = model("y = Conv(x, w)", x="float[1, 64, 5, 5] x", y="float y", w=weight)
        report, _ = stored(write(proto, tmp_path / "m.onnx"))
        (target,) = report.targets
        assert target.granularity == granularity
        assert target.relative_error is not None
        assert target.relative_error <= LARGEST_ERROR
    with_all = onnxfq.inspect(tmp_path / "m.onnx", others="stored8", provider="cpu")
    assert with_all.targets[0].granularity == "channel"


def test_a_weight_that_several_nodes_read_is_stored_and_made_once(tmp_path: Path) -> None:
    source = write(conv("a = Conv(x, w) b = Relu(x) c = Conv(b, w) y = Add(a, c)"), tmp_path / "m.onnx")
    report, output = stored(source)
    assert [target.shares for target in report.targets] == ["", "a"]
    assert [node.op_type for node in onnx.load(output).graph.node].count("Cast") == 1
    compare(source, output, tolerance=0.05)


@pytest.mark.parametrize("format", FORMATS)
def test_what_only_takes_apart_the_weights_of_quantized_products_is_not_stored(format: Format, tmp_path: Path) -> None:
    """As exporters cut what projects queries, keys and values out of one weight."""
    body = """
        a = Slice(w, start, half, axis)  b = Slice(w, half, end, axis)  p = MatMul(x, a)  q = MatMul(x, b)
        c, d = Split<axis = 0>(v, parts)  e = Transpose<perm = [1, 0]>(c)  r = MatMul(q, e)  y = Sum(p, r)
    """
    w, v = normal(64, 64), normal(64, 32)
    limits = {"start": whole(0), "half": whole(32), "end": whole(64), "axis": whole(1), "parts": whole(32, 32)}
    source = write(model(body, w=w, v=v, constants=limits), tmp_path / "in.onnx")
    report = onnxfq.quantize(source, tmp_path / "out.onnx", format=format, allow_slow=True, validate=False)
    assert [target.op_type for target in report.targets] == ["MatMul"] * 3
    compare(source, tmp_path / "out.onnx", tolerance=0.3)


def test_weights_of_branches(tmp_path: Path) -> None:
    """One of the scope around, which both read, and one of a branch's own."""
    proto = model(
        "y = If(c) <then_branch = t () => (float a) { a = Conv(x, w) }, "
        "else_branch = e () => (float b) { d = Conv(x, v) n = Conv(x, w) b = Add(d, n) }>",
        x="float[1, 8, 9, 9] x, bool[1] c", y="float y", w=normal(20, 8, 3, 3),
    )  # fmt: skip
    branch(proto.graph.node[0], "else_branch").initializer.append(tensor(normal(20, 8, 3, 3)[::-1].copy(), "v"))
    source = write(proto, tmp_path / "m.onnx")
    report, output = stored(source)
    assert len(report.targets) == 3
    for value in (True, False):
        compare(source, output, {"c": np.array([value])}, tolerance=0.05)
    assert "Mul" not in folded(output)


def test_quantizing_twice_is_quantizing_once(tmp_path: Path) -> None:
    for others in ("stored8", "stored4"):
        _, output = stored(write(conv(), tmp_path / "m.onnx"), others=others)
        again = onnxfq.quantize(output, tmp_path / "again.onnx")
        assert again.output is None
        assert again.skipped[0].quantized


def test_files_of_weights_are_read_and_written_alike(tmp_path: Path) -> None:
    folder = tmp_path / "apart"
    folder.mkdir()
    proto = conv(weight=normal(64, 8, 3, 3))
    inside, apart = write(proto, tmp_path / "m.onnx"), write_external(proto, folder / "m.onnx")
    (_, one), (_, other) = stored(inside), stored(apart)
    inputs = feeds(inside, {})
    np.testing.assert_array_equal(run(one, inputs)["y"], run(other, inputs)["y"])


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    weight = normal(20, 8, 3, 3)
    weight[3, 2, 1, 0] = np.nan
    with pytest.raises(ModelError, match=r"NaN or infinite values in 1 weight of .*: 'w'"):
        stored(write(conv(weight=weight), tmp_path / "m.onnx"))


def test_a_file_that_makes_something_else_of_the_codes_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that takes the second code of a byte for the first: codes and scales are right, the constant is not."""
    right = stored_nodes._byte_table()
    monkeypatch.setattr(stored_nodes, "_byte_table", lambda: right[:, ::-1].copy())
    with pytest.raises(VerificationError, match="makes something else of the constant"):
        stored(write(conv(), tmp_path / "m.onnx"), others="stored4")


def test_what_settings_there_are(tmp_path: Path) -> None:
    source = write(conv(), tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="`others` must be auto, stored8, stored4 or float"):
        onnxfq.inspect(source, others="stored2")
    with pytest.raises(SchemeError, match=r"are stored in 4 or 8 bits.*got int2"):
        onnxfq.inspect(source, schemes={"y": {"bits": 2}})
    (target,) = onnxfq.inspect(source, schemes={"y": {"bits": 4, "block_size": 16}}).targets
    assert (target.bits, target.granularity, target.operator) == (4, 16, "Conv")
    assert any("saves disk and download, not memory" in text for text in onnxfq.inspect(source).warnings)
