"""Weights in If, Loop and Scan, in local functions, and captured from the scopes around them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from support import models
from support.models import Array, K, M, Outcome, branch, constant, find, grid, model, proven, tensor

W0, W1, SQUARE = grid(seed=1), grid(seed=2), grid(K, K, seed=3, step=2.0**-9)

IF = """
    y = If (c) <
        then_branch = yes () => (float[M, 32] u) { u = MatMul (x, w0) },
        else_branch = no () => (float[M, 32] v) { v = MatMul (x, w1) }
    >
"""
LOOP = """
    y = Loop (count, go, x) <
        body = step (int64 i, bool g, float[M, 64] before) => (bool h, float[M, 64] after) {
            h = Identity (g)
            after = MatMul (before, w)
        }
    >
"""
SCAN = """
    last, y = Scan (start, x) <num_scan_inputs = 1, body = step (float[64] state, float[64] row)
        => (float[64] next, float[32] out) {
            next = Add (state, row)
            out = MatMul (next, w)
        }
    >
"""
TRUE, FALSE = np.array(True), np.array(False)


def both_branches(proto: onnx.ModelProto, tmp_path: Path, **expected: int) -> Outcome:
    outcome = proven(proto, tmp_path, feed={"c": TRUE}, **expected)
    models.compare(outcome.source, outcome.output, {"c": FALSE})
    return outcome


def conditional(body: str = IF, **constants: Array) -> onnx.ModelProto:
    return model(body, x="float[M, 64] x, bool c", constants=constants)


def as_initializer(graph: onnx.GraphProto, array: Array, name: str) -> None:
    graph.initializer.append(tensor(array, name))


def as_node(graph: onnx.GraphProto, array: Array, name: str) -> None:
    graph.node.insert(0, constant(array, name))


@pytest.mark.parametrize("put", [as_initializer, as_node])
def test_if_with_weights_of_its_own(put: Callable[[onnx.GraphProto, Array, str], None], tmp_path: Path) -> None:
    proto = conditional()
    put(branch(proto.graph.node[0], "then_branch"), W0, "w0")
    put(branch(proto.graph.node[0], "else_branch"), W1, "w1")
    outcome = both_branches(proto, tmp_path, targets=2)
    for name in ("then_branch", "else_branch"):
        graph = branch(outcome.model.graph.node[0], name)
        assert [n.op_type for n in graph.node] == ["MatMulNBits"]
        assert len(graph.initializer) == 3


def test_weights_of_the_same_name_in_both_branches(tmp_path: Path) -> None:
    proto = conditional(IF.replace("w1", "w0"))
    as_initializer(branch(proto.graph.node[0], "then_branch"), W0, "w0")
    as_initializer(branch(proto.graph.node[0], "else_branch"), W1, "w0")
    outcome = both_branches(proto, tmp_path, targets=2)
    assert not any(target.shares for target in outcome.report.targets)


def test_if_with_captured_weights(tmp_path: Path) -> None:
    outcome = both_branches(conditional(w0=W0, w1=W1), tmp_path, targets=2)
    assert not {"w0", "w1"} & outcome.initializers.keys()


def test_a_captured_weight_behind_nodes_of_both_scopes(tmp_path: Path) -> None:
    body = "t = Transpose (s)" + IF.replace("u = MatMul (x, w0)", "w0 = Cast <to = 1> (t)  u = MatMul (x, w0)")
    outcome = both_branches(conditional(body, s=W0.T.astype(np.float16), w1=W1), tmp_path, targets=2)
    assert outcome.op_types == ["If"]
    assert "s" not in outcome.initializers


def test_branches_that_share_a_captured_weight_share_the_codes(tmp_path: Path) -> None:
    outcome = both_branches(conditional(IF.replace("w1", "w0"), w0=W0), tmp_path, targets=2)
    assert len(outcome.initializers) == 3
    assert outcome.report.targets[1].shares == outcome.report.targets[0].name


def test_a_weight_that_a_subgraph_reads_otherwise_stays(tmp_path: Path) -> None:
    body = "a = MatMul (x, w0)" + IF.replace("u = MatMul (x, w0)", "r = ReduceSum (w0)  u = Add (a, r)")
    outcome = both_branches(conditional(body, w0=W0, w1=W1), tmp_path, targets=2)
    assert "w0" in outcome.initializers
    assert "w1" not in outcome.initializers


def test_a_branch_that_returns_its_weight_keeps_it(tmp_path: Path) -> None:
    body = """
        y, z = If (c) <
            then_branch = yes () => (float[M, 32] u, float[64, 32] p) {
                p = Identity (w0)  u = MatMul (x, p)
            },
            else_branch = no () => (float[M, 32] v, float[64, 32] w1) { v = MatMul (x, w1) }
        >
    """
    proto = model(body, x="float[M, 64] x, bool c", y="float[M, 32] y, float[64, 32] z", w0=W0)
    as_initializer(branch(proto.graph.node[0], "else_branch"), W1, "w1")
    both_branches(proto, tmp_path, targets=2)


def test_the_inner_weight_wins_over_an_outer_one_of_the_same_name(tmp_path: Path) -> None:
    """ONNX forbids shadowing, ONNX Runtime allows it; either way nothing may compute with the wrong weight."""
    proto = conditional("a = MatMul (x, w0)" + IF.replace("u = MatMul (x, w0)", "p = MatMul (x, w0)  u = Add (p, a)"))
    as_initializer(proto.graph, W0, "w0")
    as_initializer(proto.graph, W1, "w1")
    as_initializer(branch(find(proto.graph.node, "If"), "then_branch"), W1, "w0")
    both_branches(proto, tmp_path, targets=3)


def test_nested_subgraphs(tmp_path: Path) -> None:
    inner = (
        IF.replace("y = If", "p = If").replace("float[M, 32]", "float[M, 64]").replace("MatMul (x", "MatMul (before")
    )
    body = LOOP.replace("after = MatMul (before, w)", inner + "after = MatMul (p, w)")
    constants = {"w": SQUARE, "w0": SQUARE, "w1": SQUARE[::-1].copy()}
    proto = model(body, x="float[M, 64] x, bool c, int64 count, bool go", y="float[M, 64] y", constants=constants)
    feed = {"count": np.array(2), "go": TRUE, "c": TRUE}
    outcome = proven(proto, tmp_path, targets=3, feed=feed)
    models.compare(outcome.source, outcome.output, {**feed, "c": FALSE})
    assert len(outcome.initializers) == 9


@pytest.mark.parametrize("where", ["captured", "initializer", "node"])
def test_loop(where: str, tmp_path: Path) -> None:
    proto = model(LOOP, x="float[M, 64] x, int64 count, bool go", y="float[M, 64] y")
    step = branch(proto.graph.node[0], "body")
    if where == "node":
        as_node(step, SQUARE, "w")
    else:
        as_initializer(proto.graph if where == "captured" else step, SQUARE, "w")
    feed = {"count": np.array(3), "go": TRUE}
    outcome = proven(proto, tmp_path, feed=feed)
    assert len(branch(outcome.model.graph.node[0], "body").initializer) == (0 if where == "captured" else 3)


def test_a_loop_carried_weight_is_not_constant(tmp_path: Path) -> None:
    body = LOOP.replace("(count, go, x)", "(count, go, w)").replace("MatMul (before, w)", "MatMul (before, before)")
    proto = model(
        body.replace("float[M, 64]", "float[64, 64]") + "  o = MatMul (x, w)",
        x="float[M, 64] x, int64 count, bool go",
        y="float[64, 64] y, float[M, 64] o",
        w=SQUARE,
    )
    outcome = proven(proto, tmp_path, feed={"count": np.array(2), "go": TRUE})
    assert models.reasons(outcome.report) == {"after": "no constant weight: both inputs are computed at run time"}
    assert "w" in outcome.initializers


@pytest.mark.parametrize("where", ["captured", "initializer", "node"])
def test_scan(where: str, tmp_path: Path) -> None:
    proto = model(SCAN, x="float[M, 64] x, float[64] start")
    step = branch(proto.graph.node[0], "body")
    if where == "node":
        as_node(step, W0, "w")
    else:
        as_initializer(proto.graph if where == "captured" else step, W0, "w")
    proven(proto, tmp_path)


FUNCTION = '<domain: "local", opset_import: ["" : 17]> linear (a) => (b) { b = MatMul (a, w) }'


def functional(body: str, functions: str, **constants: Array) -> onnx.ModelProto:
    return model(body, domains=', "local" : 1', functions=functions, constants=constants)


def test_a_weight_in_a_function(tmp_path: Path) -> None:
    proto = functional("a = local.linear (x)  b = local.linear (x)  y = Add (a, b)", FUNCTION)
    proto.functions[0].node.insert(0, constant(W0, "w"))
    outcome = proven(proto, tmp_path)
    function = outcome.model.functions[0]
    assert [n.op_type for n in function.node] == ["Constant"] * 3 + ["MatMulNBits"]
    assert {o.domain for o in function.opset_import} == {"", "com.microsoft"}
    assert {o.domain for o in outcome.model.opset_import} == {"", "local", "com.microsoft"}


def test_a_large_weight_in_a_function_of_a_model_with_external_data(tmp_path: Path) -> None:
    proto = functional("a = local.linear (x)  y = MatMul (a, v)", FUNCTION, v=grid(256, 32, seed=9))
    proto.functions[0].node.insert(0, constant(grid(K, 256), "w"))
    proven(models.write_external(proto, tmp_path / "in.onnx"), tmp_path, targets=2)
    assert (tmp_path / "out.onnx.data").stat().st_size == 4096  # the codes of v alone: functions hold theirs inline


def test_a_chain_in_a_function(tmp_path: Path) -> None:
    chain = "h = Transpose (s)  w = Cast <to = 1> (h)  b = MatMul"
    proto = functional("y = local.linear (x)", FUNCTION.replace("b = MatMul", chain))
    proto.functions[0].node.insert(0, constant(np.ascontiguousarray(W0.T).astype(np.float16), "s"))
    outcome = proven(proto, tmp_path)
    assert [n.op_type for n in outcome.model.functions[0].node] == ["Constant"] * 3 + ["MatMulNBits"]


def test_gemm_in_a_function(tmp_path: Path) -> None:
    gemm = "b = Gemm <alpha = 0.5, beta = 3.0, transB = 1> (a, w, c)"
    proto = functional("y = local.linear (x)", FUNCTION.replace("b = MatMul (a, w)", gemm))
    proto.functions[0].node.insert(0, constant(np.ascontiguousarray(W0.T), "w"))
    proto.functions[0].node.insert(0, constant(np.arange(M, dtype=np.float32)[:, None], "c"))
    proven(proto, tmp_path)


def test_gemm_with_a_row_in_a_function(tmp_path: Path) -> None:
    gemm = "b = Gemm <beta = 3.0> (a, w, c)"
    proto = functional("y = local.linear (x)", FUNCTION.replace("b = MatMul (a, w)", gemm))
    proto.functions[0].node.insert(0, constant(W0, "w"))
    proto.functions[0].node.insert(0, constant(np.arange(32, dtype=np.float32), "c"))
    outcome = proven(proto, tmp_path)
    assert [n.op_type for n in outcome.model.functions[0].node] == ["Constant"] * 4 + ["MatMulNBits"]


def test_an_if_in_a_function(tmp_path: Path) -> None:
    function = f'<domain: "local", opset_import: ["" : 17]> choose (x, c) => (y) {{ {IF} }}'
    proto = model("y = local.choose (x, c)", x="float[M, 64] x, bool c", domains=', "local" : 1', functions=function)
    node = proto.functions[0].node[0]
    as_initializer(branch(node, "then_branch"), W0, "w0")
    as_node(branch(node, "else_branch"), W1, "w1")
    both_branches(proto, tmp_path, targets=2)


def test_an_if_in_a_function_that_captures_its_weight(tmp_path: Path) -> None:
    function = f'<domain: "local", opset_import: ["" : 17]> choose (x, c) => (y) {{ {IF.replace("w1", "w0")} }}'
    proto = model("y = local.choose (x, c)", x="float[M, 64] x, bool c", domains=', "local" : 1', functions=function)
    proto.functions[0].node.insert(0, constant(W0, "w0"))
    both_branches(proto, tmp_path, targets=2)


def test_nested_functions(tmp_path: Path) -> None:
    imports = '<domain: "local", opset_import: ["" : 17, "local" : 1]>'
    outer = f"{imports} twice (a) => (c) {{ b = local.linear (a)  c = Relu (b) }}"
    proto = functional("y = local.twice (x)", FUNCTION + "\n" + outer)
    proto.functions[0].node.insert(0, constant(W0, "w"))
    proven(proto, tmp_path)


def test_a_function_called_in_a_subgraph(tmp_path: Path) -> None:
    body = IF.replace("MatMul (x, w0)", "local.linear (x)")
    proto = model(body, x="float[M, 64] x, bool c", domains=', "local" : 1', functions=FUNCTION, w1=W1)
    proto.functions[0].node.insert(0, constant(W0, "w"))
    both_branches(proto, tmp_path, targets=2)


def test_functions_use_names_of_their_own(tmp_path: Path) -> None:
    """The same names in main graph and functions mean different things."""
    proto = functional("a = local.linear (x)  b = MatMul (x, w)  y = Sub (a, b)", FUNCTION, w=W1)
    proto.functions[0].node.insert(0, constant(W0, "w"))
    outcome = proven(proto, tmp_path, targets=2)
    assert not outcome.report.targets[1].shares
