"""Which constants a run reads as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxfq.graph import Graph, weight_bytes
from support.models import model, write

TABLE = np.zeros((10, 8), np.float32)  # 320 bytes
W = np.zeros((8, 8), np.float32)  # 256 bytes
HALF = np.zeros((8, 8), np.float16)  # 128 bytes
CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "a table is only looked up in": ("e = Gather(table, ids) y = MatMul(e, w)", {"table": TABLE, "w": W}, 256),
    "a tied head needs all of it": (
        "e = Gather(table, ids) t = Transpose<perm = [1, 0]>(table) y = MatMul(e, t)",
        {"table": TABLE},
        320,
    ),
    "a table may be cast first": (
        "t = Cast<to = 1>(table) e = Gather(t, ids) y = MatMul(e, w)",
        {"table": TABLE.astype(np.float16), "w": W},
        256,
    ),
    "constants read twice count once": (
        "e = Gather(table, ids) h = MatMul(e, w) y = MatMul(h, w)",
        {"table": TABLE, "w": W},
        256,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_weights_read(case: str, tmp_path: Path) -> None:
    nodes, constants, wanted = CASES[case]
    proto = model(nodes, x="int64[M] ids", y="float[M, N] y", **constants)
    graph = Graph.load(write(proto, tmp_path / "model.onnx"))
    assert weight_bytes(graph, widens=True) == weight_bytes(graph, widens=False) == wanted


@pytest.mark.parametrize(("widens", "wanted"), [(True, 256), (False, 128)])
def test_half_precision_may_be_widened(widens: bool, wanted: int, tmp_path: Path) -> None:
    proto = model(
        "h = Cast<to = 10>(x) p = MatMul(h, w) y = Cast<to = 1>(p)", x="float[M, 8] x", y="float[M, 8] y", w=HALF
    )
    assert weight_bytes(Graph.load(write(proto, tmp_path / "model.onnx")), widens=widens) == wanted
