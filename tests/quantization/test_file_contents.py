"""What files consist of: every constant once, by who reads it, and all together the size of the files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxfq
from benchmarks.contents import contents as judged
from onnxfq.errors import ModelError
from onnxfq.reports.contents import Content
from support.models import Array, constant, grid, model, write, write_external

H = 64


def rows(contents: Iterable[Content]) -> dict[str, int]:
    return {str(content): content.bytes for content in contents}


def sizes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


def floats(*shape: int) -> Array:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def lstm(tail: str = "s = Squeeze(h, one) y = MatMul(s, w)", **weights: Array) -> onnx.ModelProto:
    body = f"h, a, b = LSTM<hidden_size = {H}>(x, W, R) {tail}"
    given = {"W": floats(1, 4 * H, H), "R": floats(1, 4 * H, H), **weights}
    return model(body, x=f"float[M, B, {H}] x", y="float[M, B, N] y", constants=given)


def test_weights_are_named_by_their_operators_and_add_up_to_the_file(tmp_path: Path) -> None:
    source = write(lstm(one=np.array([1]), w=grid()), tmp_path / "m.onnx")
    done = onnxfq.quantize(source, algorithm="rtn", validate=False)
    told = rows(done.contents)
    assert told["LSTM weights"] == 2 * 4 * 4 * H * H
    assert told["quantized weights (MatMulNBits)"] == done.size.target_bytes
    assert rows(done.source_contents)["MatMul weights"] == grid().nbytes
    assert "MatMul weights" not in told
    assert sum(told.values()) == done.size.output_bytes == sizes(tmp_path / "m.int4.onnx")
    assert sum(rows(done.source_contents).values()) == done.size.source_bytes == sizes(source)


def test_what_is_predicted_is_what_comes(tmp_path: Path) -> None:
    source = write(lstm(one=np.array([1]), w=grid()), tmp_path / "m.onnx")
    told = rows(onnxfq.inspect(source).contents)
    done = rows(onnxfq.quantize(source, algorithm="rtn", validate=False).contents)
    for name in ("LSTM weights", "quantized weights (MatMulNBits)"):
        assert told[name] == done[name]
    assert sum(told.values()) == onnxfq.inspect(source).size.output_bytes


def test_what_nothing_can_be_done_with_is_named_in_the_refusal(tmp_path: Path) -> None:
    source = write(lstm("y = Squeeze(h, one)", one=np.array([1])), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"1x a hidden size of 64 is not faster .*; 99 % of its bytes are LSTM"):
        onnxfq.quantize(source)
    with pytest.raises(ModelError, match=r"1x too small: .*; \d\d % of its bytes are LSTM weights"):
        onnxfq.quantize(write(lstm(one=np.array([1]), w=grid(H, 2)), tmp_path / "n.onnx"))


@pytest.mark.parametrize(
    ("body", "shape", "named"),
    [
        ("e = Gather(t, i) y = MatMul(x, e)", (8, 64, 32), "experts' weights (Gather)"),
        ("e = Gather(t, i) y = Add(e, e)", (100, 32), "embeddings (Gather)"),
        ("y = MatMul(x, t)", (8, 64, 32), "batched weights (MatMul)"),
        ("c = Cast<to = 1>(t) z = Transpose(c) y = MatMul(x, z)", (32, 64), "MatMul weights"),
        ('y = Einsum<equation = "mk,kn->mn">(x, t)', (64, 32), "Einsum weights"),
        ("y = Add(x, t)", (64,), "norms, biases, constants"),
        ("y = Add(x, t)", (1, 64), "norms, biases, constants"),
    ],
)
def test_kinds_of_weights(tmp_path: Path, body: str, shape: tuple[int, ...], named: str) -> None:
    proto = model(body, x="float[M, 64] x, int64 i", y="float[M, N] y", t=floats(*shape))
    source = write(proto, tmp_path / "m.onnx")
    assert rows(onnxfq.inspect(source).source_contents)[named] == 4 * np.prod(shape)


def test_a_table_that_is_the_head_too_counts_once(tmp_path: Path) -> None:
    body = "e = Gather(t, i) z = Transpose<perm = [1, 0]>(t) y = MatMul(e, z)"
    source = write(model(body, x="int64[M] i", y="float[M, 256] y", t=floats(256, 64)), tmp_path / "m.onnx")
    made = onnxfq.quantize(source, algorithm="rtn", validate=False)
    assert rows(made.source_contents)["embeddings (Gather, MatMul)"] == 4 * 256 * 64
    assert sum(c.bytes for c in made.contents if c.is_quantized) == made.size.target_bytes
    found = judged(tmp_path / "m.int4.onnx", made.size.output_bytes)["bytes"]
    assert sum(found[kind] for kind in ("codes", "scales", "zero points")) == made.size.target_bytes


def test_branches_and_functions_and_constant_nodes_count_once(tmp_path: Path) -> None:
    """Both branches read one weight; one weight stands in a Constant node, one in the argument of a function."""
    body = (
        "h = MatMul(x, w) z = If (c) <then_branch = a () => (float[M, 64] p) { q = MatMul(h, v) p = Tanh(q) }, "
        "else_branch = b () => (float[M, 64] p) { q = MatMul(h, v) p = Relu(q) }> u = MatMul(z, k) y = f.Apply(u, g)"
    )
    proto = model(
        body, x="float[M, 64] x, bool c", y="float[M, 32] y", w=grid(64, 64), v=grid(64, 64, seed=1), g=floats(64, 32)
    )
    function = onnx.helper.make_function(
        "f", "Apply", ["a", "m"], ["r"], [onnx.helper.make_node("Einsum", ["a", "m"], ["r"], equation="mk,kn->mn")],
        [onnx.helper.make_opsetid("", 17)],
    )  # fmt: skip
    proto.functions.append(function)
    if not any(opset.domain == "f" for opset in proto.opset_import):
        proto.opset_import.append(onnx.helper.make_opsetid("f", 1))
    proto.graph.node.insert(0, constant(floats(64, 64), "k"))
    source = write(proto, tmp_path / "m.onnx")
    for made in (onnxfq.inspect(source), onnxfq.quantize(source, algorithm="rtn", validate=False)):
        assert rows(made.source_contents)["MatMul weights"] == 3 * 4 * 64 * 64
        assert rows(made.contents)["Einsum weights"] == 4 * 64 * 32
        assert made.size.target_weights == 3 * 64 * 64
        assert made.size.bits_per_weight == pytest.approx(4 + 32 / 32 + 4 / 32)
        assert not any("stay in floating point too" in warning for warning in made.warnings)
        assert sum(rows(made.contents).values()) == made.size.output_bytes
        assert made.size.target_bytes == rows(made.contents)["quantized weights (MatMulNBits)"]


def test_external_data_and_bytes_that_several_share_count_once(tmp_path: Path) -> None:
    proto = model("h = MatMul(x, v) y = MatMul(h, w)", y="float[M, 64] y", v=grid(64, 64), w=grid(64, 64))
    source = write_external(proto, tmp_path / "m.onnx")
    loaded = onnx.load(source, load_external_data=False)
    for entry, kept in zip(*(tensor.external_data for tensor in loaded.graph.initializer), strict=True):
        entry.value = kept.value
    onnx.save(loaded, source)
    made = onnxfq.inspect(source)
    assert rows(made.source_contents)["MatMul weights"] == 4 * 64 * 64
    assert sum(rows(made.source_contents).values()) == made.size.source_bytes


def test_models_of_a_folder_are_added_up(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    for name in ("a", "b"):
        write(model("y = MatMul(x, w)", w=grid()), folder / f"{name}.onnx")
    made = onnxfq.quantize(folder, tmp_path / "g", algorithm="rtn", validate=False)
    assert rows(made.source_contents)["MatMul weights"] == 2 * grid().nbytes
    assert rows(made.contents)["quantized weights (MatMulNBits)"] == made.size.target_bytes
    assert sum(rows(made.contents).values()) == made.size.output_bytes


def test_a_quantized_model_is_seen_as_one(tmp_path: Path) -> None:
    source = write(model("y = MatMul(x, w)", w=grid()), tmp_path / "m.onnx")
    made = onnxfq.quantize(source, algorithm="rtn", validate=False)
    again = onnxfq.inspect(tmp_path / "m.int4.onnx")
    assert rows(again.source_contents) == rows(again.contents) == rows(made.contents)


@pytest.mark.parametrize(
    ("body", "shape", "named"),
    [
        ('y = Einsum<equation = "mk,bkn->bmn">(x, t)', (8, 64, 32), "Einsum weights"),
        ("y = GatherND(t, j)", (100, 64), "embeddings (GatherND)"),
        ("u = Unsqueeze(x, one) y = Conv(u, t)", (4, 1, 64), "Conv weights"),
        ("u = Unsqueeze(x, one) y = ConvTranspose(u, t)", (1, 4, 64), "ConvTranspose weights"),
        ("y, h = GRU<hidden_size = 32>(q, t, r)", (1, 96, 64), "GRU weights"),
        ("y, h = RNN<hidden_size = 64>(q, t, r)", (1, 64, 64), "RNN weights"),
        ("a = Relu(t) b = MatMul(x, t) y = Tile(a, i)", (64, 32), "MatMul, Relu weights"),
        (
            "y = Loop(i, on, x, t)<body = g (int64 n, bool c, float[M, 64] a, float[64, 64] w) => (bool d, "
            "float[M, 64] b, float[64, 64] v) { b = MatMul(a, w) d = Identity(c) v = Identity(w) }>",
            (64, 64),
            "MatMul weights",
        ),
        ("y, m = com.microsoft.EmbedLayerNormalization(i, , t, t, , g, g)", (100, 64),
         "embeddings (EmbedLayerNormalization)"),
    ],
)  # fmt: skip
def test_every_large_constant_is_named_by_who_computes_with_it(
    tmp_path: Path, body: str, shape: tuple[int, ...], named: str
) -> None:
    if "Loop" in body:
        call, attribute = body.split("<")
        name, operands = call.split(" = Loop")
        body = f"{name}, z = Loop <{attribute} {operands}"
    proto = model(body, x="float[M, 64] x, int64 i, int64[M, 1] j, float[M, B, 64] q, bool on", y="float[M, N] y",
                  domains=', "com.microsoft" : 1', t=floats(*shape), one=np.array([1]), g=floats(64),
                  r=floats(1, 96, 32))  # fmt: skip
    source = write(proto, tmp_path / "m.onnx")
    assert rows(onnxfq.inspect(source).source_contents)[named] == 4 * np.prod(shape) + (
        4 * 96 * 32 if "r)" in body else 0
    )
