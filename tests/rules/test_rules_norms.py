"""What normalization layers tell about inputs, in every spelling, and what does not fool the rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
import onnx.parser
import pytest

import onnxfq
from onnxfq.graph import Graph
from onnxfq.rules import Target, expected_mean_square
from onnxfq.scheme import Granularity, Scheme
from onnxfq.solvers.hqq import Hqq
from onnxfq.statistics import Statistics
from support.planned import targets_of

K, N = 64, 32
RNG = np.random.default_rng(0)
GAMMA = RNG.uniform(0.1, 3, K).astype(np.float32)
BETA = RNG.standard_normal(K).astype(np.float32)
WEIGHT = RNG.standard_normal((K, N)).astype(np.float32)

HEADER = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> g (float[M, 64] x) => (float[M, 32] y) '
SPELLINGS = {
    "LayerNormalization": "{ h = LayerNormalization <axis = -1> (x, gamma, beta)  y = MatMul (h, w) }",
    "behind Identity": "{ a = LayerNormalization (x, gamma, beta)  h = Identity (a)  y = MatMul (h, w) }",
    "SkipLayerNormalization": "{ h = com.microsoft.SkipLayerNormalization (x, x, gamma, beta)  y = MatMul (h, w) }",
    "spelled out": """{
        m = ReduceMean <axes = [-1]> (x)  c = Sub (x, m)  s = Mul (c, c)  v = ReduceMean <axes = [-1]> (s)
        r = Sqrt (v)  d = Div (c, r)  g = Mul (d, gamma)  h = Add (g, beta)  y = MatMul (h, w) }""",
}
RMS = {
    "SimplifiedLayerNormalization": "{ h = SimplifiedLayerNormalization (x, gamma)  y = MatMul (h, w) }",
    "x / √v": """{
        s = Mul (x, x)  v = ReduceMean (s)  r = Sqrt (v)  d = Div (x, r)  h = Mul (gamma, d)  y = MatMul (h, w) }""",
    "x · (1 / √v)": """{
        s = Mul (x, x)  v = ReduceMean (s)  r = Sqrt (v)  i = Reciprocal (r)  d = Mul (x, i)  h = Mul (gamma, d)
        y = MatMul (h, w) }""",
    "x · (one / √v)": """{
        s = Mul (x, x)  v = ReduceMean (s)  r = Sqrt (v)  i = Div (one, r)  d = Mul (x, i)  h = Mul (d, gamma)
        y = MatMul (h, w) }""",
}
UNKNOWN = {
    "no layer": "{ y = MatMul (x, w) }",
    "Relu between": "{ a = LayerNormalization (x, gamma, beta)  h = Relu (a)  y = MatMul (h, w) }",
    "a plain product": "{ h = Mul (x, gamma)  y = MatMul (h, w) }",
    "a plain quotient": "{ d = Div (x, gamma)  h = Mul (d, gamma)  y = MatMul (h, w) }",
    "computed γ": "{ g = Relu (x)  d = Sqrt (x)  e = Div (x, d)  h = Mul (e, g)  y = MatMul (h, w) }",
}


def target(body: str, folder: Path) -> tuple[Graph, Target]:
    model = onnx.parser.parse_model(HEADER + body)
    values: dict[str, npt.NDArray[np.float32]] = {
        "gamma": GAMMA,
        "beta": BETA,
        "w": WEIGHT,
        "one": np.ones(1, np.float32),
    }
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in values.items() if k in used)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    graph = Graph.load(path)
    return graph, targets_of(graph)[0]


@pytest.mark.parametrize("body", SPELLINGS.values(), ids=SPELLINGS)
def test_layer_normalisation_gives_gamma_and_beta_squared(body: str, tmp_path: Path) -> None:
    energy = expected_mean_square(*target(body, tmp_path))
    wanted = GAMMA.astype(np.float64) ** 2 + BETA.astype(np.float64) ** 2
    assert energy is not None
    np.testing.assert_allclose(energy, wanted / wanted.mean(), rtol=1e-12)


@pytest.mark.parametrize("body", RMS.values(), ids=RMS)
def test_rms_normalisation_gives_gamma_squared(body: str, tmp_path: Path) -> None:
    energy = expected_mean_square(*target(body, tmp_path))
    wanted = GAMMA.astype(np.float64) ** 2
    assert energy is not None
    np.testing.assert_allclose(energy, wanted / wanted.mean(), rtol=1e-12)


@pytest.mark.parametrize("body", UNKNOWN.values(), ids=UNKNOWN)
def test_nothing_is_made_up(body: str, tmp_path: Path) -> None:
    assert expected_mean_square(*target(body, tmp_path)) is None


def test_the_prediction_holds_on_random_inputs(tmp_path: Path) -> None:
    energy = expected_mean_square(*target(SPELLINGS["LayerNormalization"], tmp_path))
    x = np.random.default_rng(1).standard_normal((20000, K))
    x = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
    measured = ((x * GAMMA + BETA) ** 2).mean(axis=0)
    assert energy is not None
    np.testing.assert_allclose(energy, measured / measured.mean(), rtol=0.1)


@pytest.mark.parametrize("block_size", [16, 32, "channel"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_weighing_lowers_the_weighted_error(block_size: int | Granularity, symmetric: bool) -> None:
    weight = np.random.default_rng(2).standard_normal((48, 96)).astype(np.float32)
    energy = np.random.default_rng(3).uniform(0.01, 4, 96)
    scheme = Scheme(block_size=block_size, symmetric=symmetric)

    def error(statistics: Statistics | None) -> float:
        q = Hqq().solve(weight, scheme, statistics, scale_type="float32")
        return float((energy * (q.dequantize().astype(np.float64) - weight) ** 2).sum())

    assert error(Statistics(tokens=0, mean_square=energy)) < error(None)


def test_the_report_says_so(tmp_path: Path) -> None:
    target(SPELLINGS["LayerNormalization"], tmp_path)
    for algorithm, weighted in (("hqq", "by a normalization layer"), ("rtn", "")):
        report = onnxfq.quantize(tmp_path / "model.onnx", tmp_path / "out.onnx", algorithm=algorithm, validate=False)
        assert [t.weighted for t in report.targets] == [weighted]
