"""Inputs for a model of the zoo: those that calibration would make, with a seed of their own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from onnxfq.executors.executor import HERE
from onnxfq.options import Options
from onnxfq.progress import silent
from onnxfq.quantization.data import prepare
from onnxfq.quantization.plan import plan
from onnxfq.quantization.source import Source

UNSEEN_SEED = 1000


def write_unseen(model: Path, folder: Path, *, samples: int, seq_len: int, seed: int = UNSEEN_SEED) -> Path | None:
    """Write what `calib="self"` would calibrate a model with, had it that seed: a file a sample.

    Returns:
        The folder; None for a model in which nothing can be quantized.

    Raises:
        OnnxfqError: nothing can be made up that the model runs on.
    """
    options = Options(calib="self", samples=samples, seq_len=seq_len, seed=seed, provider="cpu", validate=False)
    (job,) = plan(Source.of(model), options, HERE, calibrated=True)
    with tempfile.TemporaryDirectory() as work:
        feeds = prepare(job, Path(work), silent).calibration
    if feeds is None:
        return None
    folder.mkdir(parents=True)
    for number, feed in enumerate(feeds):
        named: dict[str, Any] = {**feed}  # for mypy, which takes them for other parameters of savez
        np.savez(folder / f"{number:03}.npz", **named)
    return folder
