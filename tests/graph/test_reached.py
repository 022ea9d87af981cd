"""Which outputs some nodes reach: directly, from subgraphs of any depth, and from functions."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxfq.graph import Graph, reached_outputs
from support.models import model, write
from support.tiny import weight

OUTPUTS = "float[M, 64] y, float[M, 64] z"
FUNCTIONS = '<opset_import: ["": 17], domain: "local"> block (s, w) => (t) { m = MatMul (s, w) t = Tanh (m) }'


@pytest.mark.parametrize(
    ("body", "functions", "wanted"),
    [
        ("p = MatMul(x, w) y = Relu(p) z = Neg(x)", "", {"y"}),
        ("y = MatMul(x, w) z = Neg(y)", "", {"y", "z"}),
        ("p = MatMul(x, w) y = Neg(x) z = Abs(x)", "", set()),
        ("p = MatMul(x, w) y = If (c) <then_branch = a () => (float[M, 64] t) { t = Neg(p) }, "
         "else_branch = b () => (float[M, 64] r) { r = Abs(x) }> z = Neg(x)", "", {"y"}),
        ("y = If (c) <then_branch = a () => (float[M, 64] t) { t = If (c) <then_branch = d () => (float[M, 64] u) "
         "{ u = MatMul(x, w) }, else_branch = e () => (float[M, 64] v) { v = Abs(x) }> }, "
         "else_branch = b () => (float[M, 64] r) { r = Abs(x) }> z = Neg(x)", "", {"y"}),
        ("y = local.block(x, w) z = Neg(x)", FUNCTIONS, {"y", "z"}),
    ],
)  # fmt: skip
def test_outputs_that_products_reach(body: str, functions: str, wanted: set[str], tmp_path: Path) -> None:
    proto = model(
        body, x="float[M, 64] x, bool c", y=OUTPUTS, domains=', "local" : 1', functions=functions, w=weight(0)
    )
    graph = Graph.load(write(proto, tmp_path / "m.onnx"))
    assert reached_outputs(graph, [node for node in graph.nodes() if node.op_type == "MatMul"]) == wanted
    assert reached_outputs(graph, []) == set()
