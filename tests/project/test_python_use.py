"""How the library behaves in Python: results in consoles and notebooks, and models that are objects."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxfq
from onnxfq import UsageError
from onnxfq.graph import in_memory
from onnxfq.reports.recipe import command_line, python_call
from onnxfq.system.notebook import notebook_table
from support.tiny import pair


def data(folder: Path = Path()) -> Path:
    """Inputs of the model of two products."""
    np.savez(folder / "d.npz", x=np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32))
    return folder / "d.npz"


# Results in consoles and notebooks


def test_a_report_is_one_line_in_a_console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pair(Path("m.onnx"))
    told = repr(onnxfq.quantize("m.onnx", algorithm="rtn", max_error=0.0, min_cosine=0.0))
    sizes = r"\S+ k?B → \S+ k?B"
    assert re.fullmatch(
        rf"<Report m\.onnx → m\.int4\.onnx: {sizes}; relative MSE up to \S+; 1 of 2 gates failed: max-error>", told
    )
    assert re.fullmatch(rf"<Report m\.onnx: {sizes}; not written>", repr(onnxfq.inspect("m.onnx")))
    evaluated = onnxfq.evaluate("m.int4.onnx", "m.onnx", data=data(), max_error=1)
    assert re.fullmatch(
        r"<Evaluation m\.int4\.onnx against m\.onnx: outputs: .*relative_mse \S+.*; 1 gate passed>", repr(evaluated)
    )


def test_results_are_tables_in_a_notebook(tmp_path: Path) -> None:
    model = pair(tmp_path / "m.onnx")
    report = onnxfq.quantize(model, algorithm="rtn", max_error=0.0)
    html = report._repr_html_()
    for part in ("<table>", "<th>file size</th>", "relative MSE, ", "Gate max-error: ", f"<b>{report.output}</b>"):
        assert part in html
    assert "<th>relative_mse</th>" in onnxfq.evaluate(str(report.output), model, data=data(tmp_path))._repr_html_()


def test_what_comes_from_a_model_is_text_in_a_notebook() -> None:
    evil = "<script>alert(1)</script>\x1b[31m"
    html = notebook_table(evil, ("", "a"), [(evil, evil)], [evil])
    assert "<script>" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[31m") == 4


# Models in memory


def test_a_model_in_memory_is_quantized_like_a_file(tmp_path: Path) -> None:
    path = pair(tmp_path / "m.onnx")
    model = onnx.load(path)
    before = model.SerializeToString()
    report = onnxfq.quantize(model, tmp_path / "memory.onnx", algorithm="rtn", max_error=1.0)
    onnxfq.quantize(path, tmp_path / "file.onnx", algorithm="rtn")
    assert (report.source, report.passed, model.SerializeToString()) == ("in memory", True, before)
    nodes = [onnx.load(tmp_path / name).graph for name in ("memory.onnx", "file.onnx")]
    assert nodes[0] == nodes[1]
    assert onnxfq.inspect(model).targets == onnxfq.inspect(path).targets
    assert "quantize(model, " in python_call(report)
    assert " MODEL " in command_line(report)
    given = data(tmp_path)
    found = onnxfq.evaluate(onnx.load(tmp_path / "memory.onnx"), model, data=given)
    assert (found.model, found.baseline) == ("in memory", "in memory")
    assert (
        found["relative_mse"].value == onnxfq.evaluate(tmp_path / "memory.onnx", path, data=given)["relative_mse"].value
    )


def test_models_in_memory_that_cannot_be_taken_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx.load(pair(tmp_path / "m.onnx"))
    with pytest.raises(UsageError, match=r"has no place of its own\. Name the file to write with `output=PATH`"):
        onnxfq.quantize(model)
    for call, what in ((onnxfq.inspect, "model"), (onnxfq.evaluate, "model"), (onnxfq.benchmark, "model")):
        with pytest.raises(UsageError, match=rf"`{what}` must be a path or an onnx\.ModelProto \(got int\)"):
            call(3)
    with pytest.raises(UsageError, match=r"`baseline` must be a path or an onnx\.ModelProto \(got int\)"):
        onnxfq.evaluate(model, 3)
    empty = onnx.ModelProto()
    empty.ir_version = 8
    with pytest.raises(onnxfq.ModelError, match=r"^in memory holds no graph"):
        onnxfq.inspect(empty)
    copy = onnx.load(tmp_path / "m.onnx")
    onnx.save(copy, tmp_path / "e.onnx", save_as_external_data=True, location="e.data", size_threshold=0)
    lacking = onnx.load(tmp_path / "e.onnx", load_external_data=False)
    with pytest.raises(onnxfq.ModelError, match=r"lacks the data of '.*', .* Give the model's path, or load it with"):
        onnxfq.inspect(lacking)
    monkeypatch.setattr(in_memory, "MOST_BYTES", 100)
    with pytest.raises(onnxfq.ModelError, match=r"more than the 2 GB .* save_as_external_data=True"):
        onnxfq.inspect(model)
