"""Two blocks behind normalization layers, whose inputs may be scaled at no cost."""

from __future__ import annotations

import numpy as np
import onnx

from support.models import Array, model

K, N = 64, 96
FEEDS = [{"x": np.random.default_rng(i).standard_normal((48 + i, K)).astype(np.float32)} for i in range(4)]
BODY = (
    "h = LayerNormalization <axis = -1> (x, gamma, beta) q = MatMul(h, wq) k = MatMul(h, wk) kb = Add(k, bk) "
    "t = Tanh(q) s = Mul(t, kb) o = MatMul(s, wo) r = Add(o, x) "
    "g = LayerNormalization <axis = -1> (r, gamma, beta) f = Gemm(g, wf, bf) e = Relu(f) "
    "d = MatMul(e, wd) y = Add(d, r)"
)


def weight(seed: int, k: int, n: int) -> Array:
    return np.random.default_rng(seed).standard_normal((k, n)).astype(np.float32) / np.float32(np.sqrt(k))


def network(body: str = BODY, **more: Array) -> onnx.ModelProto:
    """Two blocks behind normalization layers that share their vectors and make some channels large."""
    rng = np.random.default_rng(9)
    gamma = rng.uniform(0.5, 1.5, K)
    gamma[::17] *= 20
    constants = {
        "gamma": gamma.astype(np.float32),
        "beta": (0.1 * rng.standard_normal(K)).astype(np.float32),
        "wq": weight(0, K, N),
        "wk": weight(1, K, N),
        "bk": weight(2, 1, N)[0],
        "wo": weight(3, N, K),
        "wf": weight(4, K, N),
        "bf": weight(5, 1, N)[0],
        "wd": weight(6, N, K),
    } | more
    return model(body, y="float[M, L] y", constants=constants)
