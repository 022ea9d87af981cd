"""Calibration on batches is that on their texts, and models that mix the texts of a batch get them one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxfq
from onnxfq.calibration.pieces import Runtime
from onnxfq.calibration.sample_batches import put_together
from onnxfq.feeds import Feeds
from onnxfq.graph import Graph
from onnxfq.reports.report import Report
from support.models import Array, model, normal, whole, write

IDS = "int64[batch, tokens] input_ids"
STATES = "float[batch, tokens, 64] y"
PRODUCTS = "h = MatMul(e, w0) r = Relu(h) p = MatMul(r, w1) y = Add(p, e)"
BODIES = {
    "apart": f"e = Gather(table, input_ids) {PRODUCTS}",
    "mixed": f"g = Gather(table, input_ids) m = ReduceMean<axes = [0], keepdims = 1>(g) e = Sub(g, m) {PRODUCTS}",
    "squared": f"e = Gather(table, input_ids) {PRODUCTS}".replace("Relu(h)", "Mul(h, h)"),
    "of one": f"g = Gather(table, input_ids) e = Reshape(g, of_one) {PRODUCTS}",
}


def written(folder: Path, kind: str = "apart", table: Array | None = None) -> Path:
    table = normal(100, 64) if table is None else table
    w0, w1 = normal(64, 128) / 8, normal(128, 64) / 8
    proto = model(BODIES[kind], x=IDS, y=STATES, table=table, of_one=whole(1, -1, 64), w0=w0, w1=w1)
    return write(proto, folder / "in.onnx")


def texts(count: int, lowest: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(3)
    return [{"input_ids": rng.integers(lowest, 100, (1, 6 + index % 4))} for index in range(count)]


@pytest.mark.parametrize(("kind", "batches"), [("apart", 4), ("mixed", 40), ("of one", 40)])
def test_samples_are_put_together_where_the_model_does_not_mix_them(tmp_path: Path, kind: str, batches: int) -> None:
    graph, feeds = Graph.load(written(tmp_path, kind)), Feeds(tuple(texts(40)), "given")
    found = put_together(graph, feeds, (), Runtime("cpu", 1, 10**9, tmp_path))
    assert len(found.feeds) == batches
    assert sorted(index for members in found.members for index in members) == list(range(40))


def quantized(source: Path, calib: list[dict[str, Any]]) -> tuple[Report, onnx.ModelProto]:
    out = source.parent / "out.onnx"
    out.unlink(missing_ok=True)
    report = onnxfq.quantize(source, out, calib=calib, provider="cpu", validate=False)
    return report, onnx.load(out)


def test_the_result_is_that_of_single_samples_but_for_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, calib = written(tmp_path), texts(64)
    report, found = quantized(source, calib)
    monkeypatch.setattr("onnxfq.feeds.batches._TOKENS", 1)
    single, wanted = quantized(source, calib)
    assert [target.tokens for target in report.targets] == [target.tokens for target in single.targets]
    assert sum(target.tokens > 0 for target in report.targets) == 2
    for one, other in zip(report.targets, single.targets, strict=True):
        assert one.output_error == pytest.approx(other.output_error, rel=0.02)
    arrays, others = ({i.name: onnx.numpy_helper.to_array(i) for i in m.graph.initializer} for m in (found, wanted))
    assert arrays.keys() == others.keys()
    codes = [name for name, array in arrays.items() if array.dtype == np.uint8 and array.ndim == 3]
    assert codes
    for name in codes:
        assert (arrays[name] != others[name]).mean() < 0.02


def test_a_text_that_gives_nan_is_left_out_alone(tmp_path: Path) -> None:
    table = normal(100, 64)
    table[0] *= 1e25
    calib = texts(40, lowest=1)
    calib[1]["input_ids"][0, 2] = 0
    report, _ = quantized(written(tmp_path, "squared", table), calib)
    (note,) = [note for note in report.warnings if "NaN" in note]
    assert "1 of 40 samples gave NaN or infinity and were left out of calibration: 2 (in 'r')" in note
    first, second = [target.tokens for target in report.targets if target.tokens]
    assert 7 <= first - second < 7 * 4, "the text, and what was spliced of it; not the ten of one length beside it"


def test_samples_that_are_all_alike_do_not_show_whether_the_model_mixes_them(tmp_path: Path) -> None:
    graph, given = Graph.load(written(tmp_path, "mixed")), texts(40)
    for feed in given[:30:4]:
        feed["input_ids"] = given[0]["input_ids"]
    runtime = Runtime("cpu", 1, 10**9, tmp_path)
    assert len(put_together(graph, Feeds(tuple(given), "given"), (), runtime).feeds) == 40
    same = Feeds((given[0],) * 8, "given")
    assert put_together(graph, same, (), runtime).feeds is same
