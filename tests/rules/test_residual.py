"""What a product is added to, found by data flow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxfq.graph import Flow, Graph
from onnxfq.rules import find_residuals
from support.models import model, write

WEIGHT = np.ones((64, 64), np.float32)
KNOWN = {"x", "r", "t"}


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("o = MatMul(t, w) y = Add(o, r)", ("r",)),
        ("o = MatMul(t, w) y = Add(r, o)", ("r",)),
        ("o = MatMul(t, w) s = Constant <value_ints = [-1, 64]> () f = Reshape(o, s) y = Add(f, r)", ("r",)),
        ("o = MatMul(t, w) y = Mul(o, r)", ()),
        ("o = MatMul(t, w) n = Relu(o) y = Add(n, r)", ()),
        ("o = MatMul(t, w) y = Add(o, o)", ()),
        ("o = MatMul(t, w) a = Add(o, r) y = Mul(a, o)", ()),
        ("o = MatMul(t, w) late = Exp(t) a = Add(o, late) y = Add(a, r)", ("r",)),
        ("o = MatMul(t, w) a = Add(o, t) y = Add(a, r)", ("t", "r")),
        ("o = MatMul(t, w) a = Add(o, t) b = Exp(a) c = Add(a, r) y = Add(b, c)", ("t",)),
    ],
    ids=["add", "swapped", "reshaped", "scaled", "bent", "doubled", "seen", "side by side", "chain", "ends at the sum"],
)
def test_what_is_there_before_the_product_and_added_to_it(tmp_path: Path, body: str, found: tuple[str, ...]) -> None:
    proto = model(f"r = Exp(x) t = Tanh(r) {body}", y="float[M, 64] y", w=WEIGHT)
    flow = Flow(Graph.load(write(proto, tmp_path / "m.onnx")))
    assert find_residuals(flow, "o", {"y"}, KNOWN) == found


def test_a_product_that_the_model_returns_stays_what_it_is(tmp_path: Path) -> None:
    proto = model("o = MatMul(x, w) y = Add(o, x)", y="float[M, 64] y, float[M, 64] o", w=WEIGHT)
    flow = Flow(Graph.load(write(proto, tmp_path / "m.onnx")))
    assert find_residuals(flow, "o", {"y", "o"}, {"x"}) == ()
