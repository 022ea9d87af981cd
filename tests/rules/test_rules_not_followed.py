"""Chains of nodes that lead to no weight, or not in time, and operators that merely share a name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxfq.graph import Graph
from onnxfq.quantization.find import find
from support import models
from support.models import grid, model, proven, reasons

W = grid()
COMPUTED = "no constant weight: both inputs are computed at run time"


def ints(*values: int) -> models.Array:
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    ("chain", "named"),
    [
        ("w = Reshape (s, shape)", "Reshape"),
        ("w = Reshape (s, zeros)", "Reshape"),
        ("w = Reshape (s, many)", "Reshape"),
        ("w = Reshape (s, half)", "Reshape"),
        ("w = Squeeze (s, zero)", "Squeeze"),
        ("w = Squeeze (s, far)", "Squeeze"),
        ("w = Unsqueeze (s, far)", "Unsqueeze"),
        ("w = Unsqueeze (s, twice)", "Unsqueeze"),
        ("w = Flatten <axis = 7> (s)", "Flatten"),
        ("w = Transpose <perm = [0, 0]> (s)", "Transpose"),
        ("w = Cast <to = 0> (s)", "Cast"),
        ("w = Cast <to = 8> (s)", "Cast"),
    ],
)
def test_chains_that_make_no_sense_are_not_followed(chain: str, named: str, tmp_path: Path) -> None:
    """ONNX Runtime would not load such a model; it must not bring us down either."""
    constants = {
        "shape": ints(7, -1),
        "zeros": ints(0, 0, 0, -1),
        "many": ints(*[1] * 100),
        "half": np.array([32, 64], np.float32),
        "zero": ints(0),
        "far": ints(7),
        "twice": ints(0, 0),
    }
    proto = model(
        f"{chain}  y = MatMul (x, w)", opset=11 if chain == "w = Unsqueeze (s)" else 17, s=W, constants=constants
    )
    if proto.opset_import[0].version == 11:
        proto.graph.node[0].attribute.append(onnx.helper.make_attribute("axes", [9]))
    graph = Graph.load(models.write(proto, tmp_path / "in.onnx"))
    targets, skips = find(graph, (), ())
    assert not targets
    assert [s.reason for s in skips] == [f"no constant weight: {named} before it cannot be followed"]


def test_too_long_a_chain(tmp_path: Path) -> None:
    body = "i0 = Identity (w)  " + "  ".join(f"i{n} = Identity (i{n - 1})" for n in range(1, 70))
    proto = model(f"{body}  a = MatMul (x, i69)  b = MatMul (x, i10)  y = Add (a, b)", w=W)
    outcome = proven(proto, tmp_path)
    assert reasons(outcome.report) == {"a": "no constant weight: more than 64 nodes lie between it and the constant"}


def test_a_diamond_of_constants_is_told_in_time(tmp_path: Path) -> None:
    """2⁶⁰ ways lead back to one constant."""
    body = "d0 = Neg (w)  " + "  ".join(f"d{n} = Add (d{n - 1}, d{n - 1})" for n in range(1, 60))
    proto = model(f"{body}  a = MatMul (x, d59)  b = MatMul (x, w)  y = Add (a, b)", w=W * 2.0**-60)
    assert "Add makes it from constants" in reasons(proven(proto, tmp_path).report)["a"]


def test_operators_of_other_domains_are_none_of_our_business(tmp_path: Path) -> None:
    """Operators that merely share a name with ONNX's own are neither targets nor followed."""
    proto = model(
        "t = vendor.Transpose (w)  z = vendor.MatMul (x, t)  y = MatMul (x, w)", domains=', "vendor" : 1', w=W
    )
    output = tmp_path / "out.onnx"
    report = models.quantized_by_rtn(models.write(proto, tmp_path / "in.onnx"), output)
    assert [t.name for t in report.targets] == ["y"]
    assert not report.skipped
    written = onnx.load(output)
    assert list(written.graph.node[:2]) == list(proto.graph.node[:2])
    assert "w" in {t.name for t in written.graph.initializer}


def test_a_transposition_of_another_domain_is_not_followed(tmp_path: Path) -> None:
    body = "t = vendor.Transpose (w)  z = MatMul (x, t)  v = vendor.Constant ()  u = MatMul (x, v)  y = MatMul (x, w)"
    proto = model(body, domains=', "vendor" : 1', w=W)
    report = models.quantized_by_rtn(models.write(proto, tmp_path / "in.onnx"))
    assert reasons(report) == {"z": COMPUTED, "u": COMPUTED}
