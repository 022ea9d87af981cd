"""Graphs as onnxruntime-genai's builder makes them: attention with rotation and cache in one node, fused norms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxfq
from support.models import Array, model, write

HEADS, GROUPS, SIZE, WIDTH, TOKENS, VOCABULARY = 4, 2, 16, 48, 64, 80
PAST = "{kind}[batch_size, 2, {past}, kv_cache_dim] past_key_values_0_{what}"
PRESENT = "{kind}[batch_size, 2, total_{past}, kv_cache_dim] present_0_{what}"
BODY = """
counts = ReduceSum (attention_mask, one) less = Sub (counts, one) seen = Cast <to = 6> (less)
shape = Shape (attention_mask) length = Gather <axis = 0> (shape, at) total = Cast <to = 6> (length)
e = Gather (table, input_ids)
n0 = SimplifiedLayerNormalization <axis = -1, epsilon = 0.00001, stash_type = 1> (e, norm0)
{project}
a, present_0_key, present_0_value = com.microsoft.GroupQueryAttention
  <num_heads = 4, kv_num_heads = 2, do_rotary = 1 {ring}>
  ({heads}, past_key_values_0_key, past_key_values_0_value, seen, total, cos, sin)
o = MatMul (a, wo)
n1, s0, s1, r = com.microsoft.SkipSimplifiedLayerNormalization <epsilon = 0.00001> (e, o, norm1)
g = MatMul (n1, gate) u = MatMul (n1, up) z = Sigmoid (g) h = Mul (g, z) m = Mul (h, u) d = MatMul (m, down)
n2 = com.microsoft.SkipSimplifiedLayerNormalization <epsilon = 0.00001> (r, d, norm2)
logits = MatMul (n2, head)
"""
PACKED = ("p = MatMul (n0, wp)", "p, , ")
SEPARATE = ("q = MatMul (n0, wq) k = MatMul (n0, wk) v = MatMul (n0, wv)", "q, k, v")


def decoder(path: Path, *, packed: bool = True, half: bool = False, window: int = 0) -> Path:
    """A decoder of one layer, whose head size is told by nothing but the node of its attention."""
    rng, real = np.random.default_rng(0), np.float16 if half else np.float32
    angles = np.outer(np.arange(TOKENS), 100.0 ** -np.linspace(0, 1, SIZE // 2))

    def drawn(*shape: int) -> Array:
        array: Array = (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(real)
        return array

    qkv = [drawn(WIDTH, n * SIZE) for n in (HEADS, GROUPS, GROUPS)]
    weights = {"wp": np.hstack(qkv)} if packed else dict(zip(("wq", "wk", "wv"), qkv, strict=True))
    weights |= {"wo": drawn(HEADS * SIZE, WIDTH), "gate": drawn(WIDTH, 96), "up": drawn(WIDTH, 96)}
    weights |= {"down": drawn(96, WIDTH), "head": 4 * drawn(WIDTH, VOCABULARY)}
    weights |= {"table": drawn(VOCABULARY, WIDTH) * 8, "cos": np.cos(angles).astype(real)}
    weights |= {"sin": np.sin(angles).astype(real), **{f"norm{i}": np.ones(WIDTH, real) for i in range(3)}}
    project, heads = PACKED if packed else SEPARATE
    ring = f", local_window_size = {window}, sliding_window_cache = 1" if window else ""
    kind, past = "float16" if half else "float", "sliding_length" if window else "sequence_length"
    ids = "int64[batch_size, sequence_length] input_ids, int64[batch_size, total_sequence_length] attention_mask"
    named = {"kind": kind, "past": f"past_{past}"}
    proto = model(
        BODY.format(project=project, heads=heads, ring=ring),
        x=", ".join([ids, *(PAST.format(what=what, **named) for what in ("key", "value"))]),
        y=", ".join(
            [f"{kind}[batch_size, sequence_length, {VOCABULARY}] logits",
             *(PRESENT.format(kind=kind, past=past, what=what) for what in ("key", "value"))]
        ),
        domains=', "com.microsoft" : 1',
        constants={**weights, "one": np.array([1]), "at": np.array(1)},
    )  # fmt: skip
    path.parent.mkdir(exist_ok=True)
    return write(proto, path)


@pytest.mark.parametrize(
    ("graph", "calib"),
    [
        ({}, "self"), ({"half": True, "packed": False}, "ids"), ({"window": 12}, "self"),
        ({"window": 12, "half": True, "packed": False}, "ids"),
    ],
    ids=str,
)  # fmt: skip
def test_they_are_calibrated_and_compared_whatever_lies_beside_them(
    graph: dict[str, bool], calib: str, tmp_path: Path
) -> None:
    source = decoder(tmp_path / "genai" / "model.onnx", **graph).parent
    settings = {"model": {"type": "llama", "decoder": {"head_size": SIZE, "num_key_value_heads": GROUPS}}}
    if calib == "self":
        (source / "genai_config.json").write_text(json.dumps(settings))
    np.savez(tmp_path / "ids.npz", input_ids=np.random.default_rng(1).integers(VOCABULARY, size=(40, 1, 24)))
    data = "self" if calib == "self" else tmp_path / "ids.npz"
    report = onnxfq.quantize(source, tmp_path / "out", calib=data, samples=40, seq_len=24)
    assert report.measured_on == "held-out"
    assert len([target for target in report.targets if target.op_type == "MatMul"]) == (
        6 if graph.get("packed", True) else 8
    )
    (logits,) = (output for output in report.outputs if output.name == "logits")
    assert logits.kl is not None
    assert 0 < logits.kl < 0.1
    assert {case.case for case in report.latency} == {"prefill", "decode, 1 token"}
    written = onnx.load(tmp_path / "out" / "model.onnx")
    assert [node.op_type for node in written.graph.node].count("GroupQueryAttention") == 1
    if calib == "self":
        assert (tmp_path / "out" / "genai_config.json").read_text() == json.dumps(settings)


def test_for_transformers_js_the_size_of_heads_is_written_in(tmp_path: Path) -> None:
    """It makes the first, empty cache by the model's own shapes."""
    source = decoder(tmp_path / "genai" / "model.onnx").parent
    onnxfq.quantize(source, tmp_path / "out", layout="transformers.js", algorithm="rtn", validate=False)
    graph = onnx.load(tmp_path / "out" / "onnx" / "model_q4.onnx").graph
    for value in (*graph.input[2:], *graph.output[1:]):
        batch, heads, tokens, size = value.type.tensor_type.shape.dim
        assert (batch.dim_param, heads.dim_value, size.dim_value) == ("batch_size", GROUPS, SIZE)
        assert tokens.dim_param in ("past_sequence_length", "total_sequence_length")
