"""Small models to begin with: each quantizes in milliseconds, together they hold what onnxfq looks at."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx

from support import models
from support.models import BFLOAT16, constant, grid, model, tensor
from tools.fuzzing.case import MODEL, Case
from tools.generate_decoder import Decoder, write_decoder

_CHAIN = """
    t = Transpose <perm = [1, 0]> (s)
    c = Cast <to = 1> (half)
    r = Reshape (flat, shape)
    q = Unsqueeze (c, axis) z = Squeeze (q, axis) i = Identity (z)
    a = MatMul (x, t) b = MatMul (a, i) d = MatMul (b, r)
    y = Relu (d)
"""
_SCOPES = """
    a = local.layer (x)
    y = If (c) <
        then_branch = yes () => (float[M, 32] u) { u = MatMul (a, w) },
        else_branch = no () => (float[M, 32] v) { p = Transpose <perm = [1, 0]> (g) v = MatMul (a, p) }
    >
"""
_FUNCTION = '<domain: "local", opset_import: ["" : 17]> layer (a) => (b) { b = Relu (a) }'
_LOOP = """
    y = Loop (trips, go, x) <
        body = step (int64 i, bool c, float[M, 64] s) => (bool d, float[M, 64] n) {
            d = Identity (c) m = MatMul (s, w) n = Tanh (m) }
    >
"""
_LAYER = """
    n = LayerNormalization (x, gamma, beta) m = MatMul (n, w) h = Add (m, bias) g = Gelu (h) k = MatMul (g, v)
    f = Gemm <alpha = 0.5, beta = 2.0, transB = 1> (k, u, bias) y = Add (f, x)
"""
_QUANTIZED = """
    d = DequantizeLinear <axis = 1> (codes, scale, zero) a = MatMul (x, d)
    c = com.microsoft.MatMulNBits <K = 64, N = 32, bits = 4, block_size = 32> (x, b, scales) s = Add (a, c)
    y = MatMul (s, w)
"""


def _plain() -> dict[str, onnx.ModelProto]:
    gelu = "g = Gelu (h)"
    return {
        "plain": model("y = MatMul (x, w)", w=grid()),
        "gemm": model("y = Gemm <alpha = 2.0, beta = 0.5, transB = 1> (x, w, b)", w=grid(32, 64), b=grid(1, 32)),
        "transposed": model("y = Gemm <transA = 1> (x, w)", x="float[64, M] x", w=grid()),
        "vector": model("y = MatMul (x, w)", x="float[64] x", y="float[32] y", w=grid()),
        "chain": model(
            _CHAIN,
            s=grid(32, 64),
            half=grid(32, 64).astype(np.float16),
            flat=grid().reshape(-1),
            shape=np.array([-1, 32]),
            axis=np.array([0]),
        ),
        "scopes": model(
            _SCOPES, x="float[M, 64] x, bool c", domains=', "local" : 1', functions=_FUNCTION, w=grid(), g=grid(32, 64)
        ),
        "loop": model(_LOOP, y="float[M, 64] y", trips=np.array(2), go=np.array(True), w=grid(64, 64)),
        "layer": model(
            _LAYER.replace(gelu, "g = Tanh (h)"),
            y="float[M, 64] y",
            gamma=np.ones(64, np.float32),
            beta=np.zeros(64, np.float32),
            w=grid(64, 64),
            v=grid(64, 64, seed=1),
            u=grid(64, 64, seed=2),
            bias=np.ones(64, np.float32),
        ),
        "quantized": model(
            _QUANTIZED,
            domains=', "com.microsoft" : 1',
            codes=np.ones((64, 32), np.uint8),
            scale=np.ones(32, np.float32),
            zero=np.zeros(32, np.uint8),
            b=np.ones((32, 2, 16), np.uint8),
            scales=np.ones((32, 2), np.float32),
            w=grid(32, 32),
        ),
        "float16": model("y = MatMul (x, w)", x="float16[M, 64] x", y="float16[M, 32] y", w=grid().astype(np.float16)),
        "bfloat16": model("y = MatMul (x, w)", x="bfloat16[M, 64] x", y="bfloat16[M, 32] y", w=grid().astype(BFLOAT16)),
        "embedding": model(
            "e = Gather (w, ids) y = MatMul (e, t)", x="int64[M] ids", y="float[M, 64] y", w=grid(), t=grid(32, 64)
        ),
    }


def _with_constants() -> onnx.ModelProto:
    proto = model("a = MatMul (x, k) y = MatMul (a, w)", w=grid(32, 32))
    proto.graph.node.insert(0, constant(grid(), "k"))
    proto.graph.initializer.append(models.typed(np.arange(5, dtype=np.float16), "unused"))
    return proto


def seeds() -> list[Case]:
    """All seeds: inline, with external data, and two decoders."""
    protos = {**_plain(), "constants": _with_constants()}
    cases = [Case({MODEL: proto.SerializeToString()}) for proto in protos.values()]
    with tempfile.TemporaryDirectory() as name:
        for key in ("plain", "gemm", "chain", "layer", "scopes", "float16"):
            folder = Path(name, key)
            folder.mkdir()
            models.write_external(protos[key], folder / MODEL, files=2, padding=64)
            cases.append(_folder(folder))
        for family, dtype in (("llama", "float16"), ("opt", "float32")):
            folder = Path(name, family)
            write_decoder(
                folder,
                Decoder(
                    family, layers=1, hidden=32, inner=48, heads=2, vocab=64, kv_heads=1, positions=32, dtype=dtype
                ),
            )
            (folder / "model.onnx").rename(folder / MODEL)
            cases.append(_folder(folder))
    cached = cases[len(protos)]
    blobs = {f"blobs/{name.replace('/', '_')}": data for name, data in cached.files.items()}
    links = {name: f"blobs/{name}" for name in cached.files}
    return [*cases, Case(blobs, links, "links into one folder")]


def _folder(folder: Path) -> Case:
    return Case({path.name: path.read_bytes() for path in sorted(folder.iterdir())})


def sparse(name: str) -> onnx.SparseTensorProto:
    """A sparse tensor."""
    proto = onnx.SparseTensorProto(dims=[64, 32])
    proto.values.CopyFrom(tensor(np.ones(3, np.float32), name))
    proto.indices.CopyFrom(tensor(np.array([0, 5, 9]), f"{name}_indices"))
    return proto
