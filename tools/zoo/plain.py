"""Models that need no exporter: written with onnx alone, as converters and hands write them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
from onnx import numpy_helper

WIDTH, INNER, HEADS, EXPERTS, VOCABULARY = 128, 256, 4, 4, 1000
Weights = Callable[..., npt.NDArray[np.float32]]

CLASSIFIER = """
<ir_version: 8, opset_import: ["" : 15]>
mlp (float[N, 64] X) => (int64[N] label, float[N, 10] probabilities) {
    p0 = MatMul(X, coefficient)
    s0 = Add(p0, intercepts)
    h0 = Relu(s0)
    p1 = MatMul(h0, coefficient1)
    s1 = Add(p1, intercepts1)
    h1 = Relu(s1)
    p2 = MatMul(h1, coefficient2)
    s2 = Add(p2, intercepts2)
    probabilities = Softmax<axis = -1>(s2)
    best = ArgMax<axis = 1, keepdims = 0>(probabilities)
    label = Gather(classes, best)
}
"""

EINSUM = """
<ir_version: 8, opset_import: ["" : 17]>
einsum_attention (float[batch, length, 128] hidden) => (float[batch, length, 128] mixed) {
    q = Einsum<equation = "bld,dhk->blhk">(hidden, query)
    k = Einsum<equation = "bld,dhk->blhk">(hidden, key)
    v = Einsum<equation = "bld,dhk->blhk">(hidden, value)
    scores = Einsum<equation = "bqhk,bshk->bhqs">(q, k)
    scaled = Mul(scores, scale)
    shares = Softmax<axis = -1>(scaled)
    heads = Einsum<equation = "bhqs,bshk->bqhk">(shares, v)
    joined = Einsum<equation = "blhk,hkd->bld">(heads, out)
    summed = Add(hidden, joined)
    normed = LayerNormalization<axis = -1>(summed, gain)
    wide = MatMul(normed, up)
    active = Relu(wide)
    narrow = MatMul(active, down)
    mixed = Add(summed, narrow)
}
"""

ROUTED = """
<ir_version: 8, opset_import: ["" : 17]>
routed (int64[batch, length] input_ids) => (float[batch, length, 1000] logits) {
    embedded = Gather(table, input_ids)
    flat = Reshape(embedded, rows)
    routing = MatMul(flat, router)
    chosen = ArgMax<axis = -1, keepdims = 0>(routing)
    zeros = Mul(flat, none)
%s
    whole = Add(flat, given%d)
    scored = MatMul(whole, head)
    size = Shape<end = 2>(input_ids)
    shape = Concat<axis = 0>(size, last)
    logits = Reshape(scored, shape)
}
"""
EXPERT = """    here{i} = Equal(chosen, number{i})
    found{i} = NonZero(here{i})
    places{i} = Transpose<perm = [1, 0]>(found{i})
    tokens{i} = GatherND(flat, places{i})
    wide{i} = MatMul(tokens{i}, up{i})
    active{i} = Relu(wide{i})
    narrow{i} = MatMul(active{i}, down{i})
    given{next} = ScatterND(given{i}, places{i}, narrow{i})"""

CONVOLUTIONS = """
<ir_version: 8, opset_import: ["" : 17]>
edges (float[batch, 3, height, width] pixels) => (float[batch, 1, height, width] mask) {
    c0 = Conv<pads = [1, 1, 1, 1]>(pixels, first)
    h0 = Relu(c0)
    c1 = Conv<pads = [1, 1, 1, 1]>(h0, second)
    h1 = Relu(c1)
    mask = Conv(h1, third)
}
"""


def build_classifier(folder: Path) -> None:
    """A multilayer perceptron with labels and probabilities, as skl2onnx converts it."""
    draw, rng = _draw(0), np.random.default_rng(1)
    weights: dict[str, npt.NDArray[np.generic]] = {
        "coefficient": draw(64, INNER), "coefficient1": draw(INNER, INNER), "coefficient2": draw(INNER, 10),
        "intercepts": draw(INNER), "intercepts1": draw(INNER), "intercepts2": draw(10),
        "classes": rng.permutation(10).astype(np.int64),
    }  # fmt: skip
    _write(folder, CLASSIFIER, weights)


def build_einsum_attention(folder: Path) -> None:
    """Attention whose products are Einsum, with weights [width, heads, head]."""
    draw, head = _draw(0), WIDTH // HEADS
    weights: dict[str, npt.NDArray[np.generic]] = {
        **{name: draw(WIDTH, HEADS, head) for name in ("query", "key", "value")},
        "out": (draw(HEADS, head, WIDTH) / 2).astype(np.float32), "up": draw(WIDTH, INNER), "down": draw(INNER, WIDTH),
        "gain": np.ones(WIDTH, np.float32), "scale": np.array(head**-0.5, np.float32),
    }  # fmt: skip
    _write(folder, EINSUM, weights)


def build_routed_experts(folder: Path) -> None:
    """Every token through one of four experts, found by NonZero: some get many tokens, some few."""
    draw = _draw(0)
    weights: dict[str, npt.NDArray[np.generic]] = {
        "table": draw(VOCABULARY, WIDTH) * np.float32(WIDTH**0.5), "router": draw(WIDTH, EXPERTS),
        "head": draw(WIDTH, VOCABULARY), "none": np.array(0, np.float32), "rows": np.array([-1, WIDTH]),
        "last": np.array([VOCABULARY]),
    }  # fmt: skip
    for i in range(EXPERTS):
        weights |= {f"up{i}": draw(WIDTH, INNER), f"down{i}": draw(INNER, WIDTH), f"number{i}": np.array(i)}
    experts = "\n".join(EXPERT.format(i=i, next=i + 1) for i in range(EXPERTS)).replace("given0", "zeros")
    _write(folder, ROUTED % (experts, EXPERTS), weights)


def build_convolutions(folder: Path) -> None:
    """Nothing but convolutions: no target."""
    draw = _draw(0)
    _write(folder, CONVOLUTIONS, {"first": draw(64, 3, 3, 3), "second": draw(64, 64, 3, 3), "third": draw(1, 64, 1, 1)})


def _draw(seed: int) -> Weights:
    """Heavy-tailed weights [inputs, …] with some large inputs."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> npt.NDArray[np.float32]:
        rows = np.exp(0.4 * rng.standard_normal((shape[0], *[1] * (len(shape) - 1))))
        deviation = (0.1 if len(shape) == 1 else shape[0] ** -0.5) * 0.8
        return (rng.standard_t(5, shape) * rows * deviation).astype(np.float32)

    return draw


def _write(folder: Path, text: str, weights: Mapping[str, npt.NDArray[np.generic]]) -> None:
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items())
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"
    onnx.checker.check_model(model)
    folder.mkdir(parents=True)
    onnx.save(model, str(folder / "model.onnx"))
