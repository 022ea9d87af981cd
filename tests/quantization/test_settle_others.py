"""Weights that are stored small beside products that are calibrated, and whether they stay so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxfq
from onnxfq.arrays import Array
from onnxfq.quantization import settle_others
from onnxfq.quantization.solved_weight import BY_DATA
from support.models import compare, model, normal, write

SAMPLES: list[dict[str, Array]] = [
    {"x": np.random.default_rng(seed).standard_normal((1, 8, 9, 9), dtype=np.float32)} for seed in range(24)
]


def source(folder: Path) -> Path:
    """A convolution whose result a product reads."""
    body = "c = Conv(x, w) r = Relu(c) f = Flatten(r) y = MatMul(f, v)"
    proto = model(body, x="float[1, 8, 9, 9] x", y="float[1, 16] y", w=normal(20, 8, 3, 3), v=normal(980, 16))
    return write(proto, folder / "m.onnx")


@pytest.mark.parametrize("memory", [2 * 10**9, 10**4])
def test_later_stages_see_what_is_stored_small(tmp_path: Path, memory: int) -> None:
    """In one piece or in several, the calibrated product is fitted behind the convolution as it will be."""
    report = onnxfq.quantize(
        source(tmp_path), tmp_path / "out.onnx", bits=8, calib=SAMPLES, others="stored4", memory=memory, provider="cpu"
    )
    by_operator = {target.operator: target for target in report.targets}
    assert set(by_operator) == {"Conv", "MatMulNBits"}
    assert by_operator["MatMulNBits"].weighted == BY_DATA
    assert by_operator["Conv"].output_error is None
    output_error = by_operator["MatMulNBits"].output_error
    assert output_error is not None
    assert 1e-3 < output_error < 0.2, "4 bits of the convolution, not 8 of the product"
    compare(tmp_path / "m.onnx", tmp_path / "out.onnx", SAMPLES[0], tolerance=0.5)


def test_what_changes_outputs_too_much_stays_in_float(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_file = source(tmp_path)
    kept = onnxfq.quantize(model_file, tmp_path / "kept.onnx", calib=SAMPLES, algorithm="rtn", provider="cpu")
    assert "Conv" in {target.operator for target in kept.targets}
    monkeypatch.setattr(settle_others, "LARGEST_OUTPUT_ERROR", 1e-9)
    left = onnxfq.quantize(model_file, tmp_path / "left.onnx", calib=SAMPLES, algorithm="rtn", provider="cpu")
    assert {target.operator for target in left.targets} == {"MatMulNBits"}
    assert any("stay in float: alone they change an output by a relative MSE of" in text for text in left.warnings)
    assert "w" in {tensor.name for tensor in onnx.load(tmp_path / "left.onnx").graph.initializer}
    forced = onnxfq.quantize(
        model_file, tmp_path / "forced.onnx", calib=SAMPLES, algorithm="rtn", others="stored8", provider="cpu"
    )
    assert "Conv" in {target.operator for target in forced.targets}
