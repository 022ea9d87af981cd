"""Where a stage's inputs can be scaled by the layer before it, where not, and that a model computes the same then."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from onnxfq.calibration.stages import find_stages
from onnxfq.graph import Flow, Graph, TensorFile, save
from onnxfq.rules import Fold, Target, find_fold, fold
from support.models import Array, compare, model, run, tensor, write
from support.planned import targets_of

K, N = 64, 32
RNG = np.random.default_rng(0)
GAMMA = RNG.uniform(0.2, 3, K).astype(np.float32)
BETA = RNG.standard_normal(K).astype(np.float32)
SCALE = np.exp(RNG.uniform(-2, 2, K))
CONSTANTS: dict[str, Array] = {
    "gamma": GAMMA,
    "beta": BETA,
    "column": GAMMA[:, None],
    "row": BETA[None],
    "one": np.ones(1, np.float32),
    "w": RNG.standard_normal((K, N)).astype(np.float32),
    "v": RNG.standard_normal((K, N)).astype(np.float32),
    "u": RNG.standard_normal((N, K)).astype(np.float32),
    "full": RNG.standard_normal((K, K)).astype(np.float32),
    "c": RNG.standard_normal(N).astype(np.float32),
    "chosen": np.array(True),
}
CENTRED = "m = ReduceMean <axes = [-1]> (x) d = Sub(x, m) s = Mul(d, d) t = ReduceMean <axes = [-1]> (s) r = Sqrt(t) "
NORM = "h = LayerNormalization <axis = -1> (x, gamma, beta) "
SIMPLE = "h = SimplifiedLayerNormalization <axis = -1> (x, gamma) "
FOLDED = {
    "LayerNormalization": NORM + "y = MatMul(h, w)",
    "without β": "h = LayerNormalization <axis = -1> (x, gamma) y = MatMul(h, w)",
    "SimplifiedLayerNormalization": SIMPLE + "y = MatMul(h, w)",
    "SkipLayerNormalization": "h = com.microsoft.SkipLayerNormalization (x, x, gamma, beta) y = MatMul(h, w)",
    "the skipped sum is read too": "h, mean, deviation, sum = com.microsoft.SkipLayerNormalization (x, x, gamma, beta) "
    "a = MatMul(h, w) b = MatMul(sum, v) y = Add(a, b)",
    "SkipSimplifiedLayerNormalization": "h = com.microsoft.SkipSimplifiedLayerNormalization (x, x, gamma) "
    "y = MatMul(h, w)",
    "Mul": CENTRED + "q = Div(d, r) h = Mul(q, gamma) y = MatMul(h, w)",
    "Mul, constant first": CENTRED + "q = Div(d, r) h = Mul(gamma, q) y = MatMul(h, w)",
    "Mul and Add": CENTRED + "q = Div(d, r) g = Mul(q, gamma) h = Add(g, beta) y = MatMul(h, w)",
    "Add of a row, constant first": CENTRED + "q = Div(d, r) g = Mul(q, gamma) h = Add(row, g) y = MatMul(h, w)",
    "γ by a detour": "g = Squeeze(column, minus) h = LayerNormalization <axis = -1> (x, g, beta) y = MatMul(h, w)",
    "Gemm": NORM + "y = Gemm(h, w, c)",
    "two targets": NORM + "a = MatMul(h, w) b = MatMul(h, v) y = Mul(a, b)",
    "others see the shape": NORM + "n = Shape(h) e = Size(h) f = Reshape(x, n) a = MatMul(h, w) y = Add(a, c)",
    "γ of two layers": NORM + "k = LayerNormalization <axis = -1> (z, gamma, beta) a = MatMul(h, w) b = MatMul(k, v) "
    "y = Add(a, b)",
}
LEFT = {
    "no layer": "y = MatMul(x, w)",
    "Relu between": NORM.replace("h =", "g =") + "h = Relu(g) y = MatMul(h, w)",
    "one value for all": "h = Mul(x, one) y = MatMul(h, w)",
    "one value for each token": "g = ReduceMean <axes = [-1]> (x) h = Mul(x, g) y = MatMul(h, w)",
    "computed γ": "g = Neg(x) h = Mul(x, g) y = MatMul(h, w)",
    "computed β": "g = Mul(x, gamma) e = Neg(x) h = Add(g, e) y = MatMul(h, w)",
    "β without γ": "h = Add(x, beta) y = MatMul(h, w)",
    "a residual reads it": NORM + "a = MatMul(h, w) b = MatMul(a, u) r = Add(b, h) y = MatMul(r, v)",
    "an Identity reads it": NORM + "g = Identity(h) y = MatMul(h, w) e = Neg(g)",
    "the product is read too": "g = Mul(x, gamma) h = Add(g, beta) a = MatMul(h, w) b = ReduceSum(g) y = Add(a, b)",
    "its only reader reads it twice": NORM + "y = Gemm(h, full, h)",
    "a product is no target": NORM
    + "a = MatMul(h, w) t = Transpose(h) b = MatMul(t, h) e = ReduceSum(b) y = Add(a, e)",
}
BRANCHES = (
    NORM + "y = If(chosen) <then_branch = p () => (float[M, 32] o) { o = MatMul(h, w) }, "
    "else_branch = q () => (float[M, 32] o) { o = MatMul(h, v) }>"
)


def build(body: str) -> onnx.ModelProto:
    proto = model(body, y="float[M, L] y", domains=', "com.microsoft" : 1', x="float[M, 64] x, float[M, 64] z")
    used = {name for node in proto.graph.node for name in node.input}
    used |= {n for node in proto.graph.node for a in node.attribute for inner in a.g.node for n in inner.input}
    for name, value in {**CONSTANTS, "minus": np.array([-1])}.items():
        if name in used:
            proto.graph.initializer.append(tensor(value, name))
    return proto


def located(path: Path, outputs: tuple[str, ...] = ("y",)) -> tuple[Graph, Fold | None, list[Target]]:
    """What is found for the first stage."""
    graph = Graph.load(path)
    flow = Flow(graph, lambda name: True)
    targets = targets_of(graph)
    stage = next(stage for stage in find_stages(flow, targets) if stage.source)
    own = [targets[i] for i in stage.targets]
    return graph, find_fold(graph, flow, stage.source, own, outputs), own


def scaled(path: Path, folder: Path, dtype: type[np.generic] = np.float32) -> onnx.ModelProto:
    """The model with its first stage's inputs divided, and the weights multiplied by what goes with that."""
    graph, found, targets = located(path)
    assert found is not None
    with TensorFile(folder / "tensor_file") as tensor_file:
        fold(graph, found, SCALE, tensor_file)
        graph.finish()
        save(graph, folder / "folded.onnx", tensor_file)
    proto = onnx.load(folder / "folded.onnx")
    for initializer in proto.graph.initializer:
        if initializer.name in {target.weight.leaf.name for target in targets}:
            value = onnx.numpy_helper.to_array(initializer) * SCALE[:, None].astype(dtype)
            initializer.CopyFrom(tensor(value.astype(dtype), initializer.name))
    return proto


@pytest.mark.parametrize("body", FOLDED.values(), ids=FOLDED)
def test_the_model_computes_the_same(body: str, tmp_path: Path) -> None:
    path = write(build(body), tmp_path / "m.onnx")
    compare(path, write(scaled(path, tmp_path), tmp_path / "scaled.onnx"), tolerance=1e-6)


@pytest.mark.parametrize("body", FOLDED.values(), ids=FOLDED)
def test_inputs_are_divided(body: str, tmp_path: Path) -> None:
    path = write(build(body), tmp_path / "m.onnx")
    folded = scaled(path, tmp_path)
    feed = {name: np.random.default_rng(i).standard_normal((5, K)).astype(np.float32) for i, name in enumerate("xz")}
    inner = []
    for proto in (onnx.load(path), folded):
        proto.graph.output.append(onnx.ValueInfoProto(name="h"))
        inner.append(run(write(proto, tmp_path / "inner.onnx"), feed)["h"])
    np.testing.assert_allclose(inner[1], inner[0] / SCALE, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("body", LEFT.values(), ids=LEFT)
def test_left_alone(body: str, tmp_path: Path) -> None:
    assert not located(write(build(body), tmp_path / "m.onnx"))[1]


def test_outputs_of_the_model_stay(tmp_path: Path) -> None:
    path = write(build(NORM + "y = MatMul(h, w)"), tmp_path / "m.onnx")
    assert located(path, ("y",))[1]
    assert not located(path, ("y", "h"))[1]
    path = write(build("g = Mul(x, gamma) h = Add(g, beta) y = MatMul(h, w)"), tmp_path / "m.onnx")
    assert located(path, ("y",))[1]
    assert not located(path, ("y", "g"))[1]


def test_a_branch_not_taken_keeps_its_input(tmp_path: Path) -> None:
    assert not located(write(build(BRANCHES), tmp_path / "m.onnx"))[1]
    apart = BRANCHES.replace("MatMul(h, v)", "MatMul(x, v)")
    assert located(write(build(apart), tmp_path / "m.onnx"))[1]


def test_a_shared_vector_changes_for_one_layer_only(tmp_path: Path) -> None:
    path = write(build(FOLDED["γ of two layers"]), tmp_path / "m.onnx")
    folded = scaled(path, tmp_path)
    one, other = (node for node in folded.graph.node if node.op_type == "LayerNormalization")
    assert list(other.input[1:]) == ["gamma", "beta"]
    assert not {"gamma", "beta"} & set(one.input)
    assert [a.i for a in one.attribute] == [a.i for a in other.attribute]


def test_what_nobody_reads_any_more_goes(tmp_path: Path) -> None:
    folded = scaled(write(build(FOLDED["LayerNormalization"]), tmp_path / "m.onnx"), tmp_path)
    assert sorted(i.name for i in folded.graph.initializer) == ["beta_folded", "gamma_folded", "w"]


def test_vectors_keep_their_type(tmp_path: Path) -> None:
    proto = model(
        "h = Mul(x, gamma) y = MatMul(h, w)",
        x="float16[M, 64] x",
        y="float16[M, 32] y",
        gamma=GAMMA.astype(np.float16),
        w=CONSTANTS["w"].astype(np.float16),
    )
    path = write(proto, tmp_path / "m.onnx")
    compare(path, write(scaled(path, tmp_path, np.float16), tmp_path / "scaled.onnx"), tolerance=5e-3)
