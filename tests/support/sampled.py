"""Calibrating tiny models on given samples, and the errors that ONNX Runtime itself finds on these."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker

from onnxfq.pipeline import quantize
from onnxfq.reports.report import Report, TargetReport
from onnxfq.session import Session
from support.models import EXACT, Array, products, session, write

Feed = Mapping[str, Array]


@dataclass(frozen=True)
class Calibrated:
    """A model that was calibrated, and the same quantized without data.

    Attributes:
        report: of the calibrated one.
        plain: of the other.
        error: Σ(y−ŷ)² / Σy² over all floating outputs and samples, where these are finite.
        plain_error: the same of the other.
        output: the file of the calibrated one.
    """

    report: Report
    plain: Report
    error: float
    plain_error: float
    output: Path

    @property
    def targets(self) -> dict[str, TargetReport]:
        return {target.name: target for target in self.report.targets}

    @property
    def warnings(self) -> str:
        return " ".join(self.report.warnings)


def tokens(*lengths: int, k: int = 64, seed: int = 0, name: str = "x") -> list[dict[str, Array]]:
    """Samples [tokens, K] whose columns hang together, as those of real models do."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((8, k)) * np.exp(rng.standard_normal(k))
    return [
        {name: (rng.standard_normal((n, 8)) @ mix + 0.3 * rng.standard_normal((n, k))).astype(np.float32)}
        for n in lengths
    ]


def error(source: Path, output: Path, samples: Sequence[Feed]) -> float:
    """Of all floating outputs, relative to their size; where both are finite."""
    before, after = Session(source), Session(output)
    squared = energy = 0.0
    for feed in samples:
        wanted, got = before.run(feed), after.run(feed)
        for name, array in wanted.items():
            if array.dtype.kind in "iub":
                continue
            y, other = array.astype(np.float64), got[name].astype(np.float64)
            finite = np.isfinite(y) & np.isfinite(other)
            squared += float(((y[finite] - other[finite]) ** 2).sum())
            energy += float((y[finite] ** 2).sum())
    return squared / (energy or 1.0)


def calibrated(
    proto: onnx.ModelProto | Path,
    folder: Path,
    samples: Sequence[Feed],
    *,
    slack: float = 1.0,
    **options: Any,
) -> Calibrated:
    """Quantize with and without calibration; assert that both are sound, and that calibration does no harm.

    Args:
        proto: the model, or the file it is in.
        folder: where to work.
        samples: what to calibrate with and to compare on.
        slack: how many times larger the error on these samples may be than without calibration.
        **options: of `quantize`.
    """
    source = proto if isinstance(proto, Path) else write(proto, folder / "in.onnx")
    given: dict[str, Any] = {"provider": "cpu", "validate": False, "scheme": EXACT} | options
    output, plain_output = folder / "out.onnx", folder / "plain.onnx"
    report = quantize(source, output, calib=samples, **given)
    plain = quantize(source, plain_output, **{"algorithm": "hqq"} | {**given, "algorithm": "hqq"})
    json.dumps(report.to_json(), allow_nan=False)
    onnx.checker.check_model(str(output))
    named = {target.name for target in report.targets} | {skip.name for skip in report.skipped}
    assert {node.name or node.output[0] for node in products(onnx.load(source))} <= named, "left out of the report"
    assert [target.name for target in report.targets] == [target.name for target in plain.targets]
    for target in report.targets:
        assert (target.weighted == "by calibration") == (target.tokens > 0) == (target.algorithm != "hqq"), target
        assert target.output_error is None or np.isfinite(target.output_error)
    assert session(output).get_outputs()[0].name == session(source).get_outputs()[0].name
    assert not list(folder.glob("*.work"))
    errors = [error(source, path, samples) for path in (output, plain_output)]
    assert errors[0] <= slack * errors[1] + 1e-7, errors
    return Calibrated(report, plain, errors[0], errors[1], output)
