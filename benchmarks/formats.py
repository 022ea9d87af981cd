"""Every format on an encoder, beside ONNX Runtime's `quantize_dynamic`: size, error, score, speed and loading.

    python -m benchmarks.formats ENCODER_DIR --sts stsb-test.csv --calib CALIB --out benchmarks/results/formats.json

ENCODER_DIR holds model.onnx and tokenizer.json; CALIB is what `benchmarks.calibration` wrote. The judge is that of
`benchmarks.quality`. Times are of one thread on a processor, all files and the original in turns.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import onnxfq
from benchmarks.calibration import read_samples
from benchmarks.inputs import Array
from benchmarks.machine import write
from benchmarks.quality import judge_encoder
from onnxfq.benchmarking.clocks import PROCESSOR, spin_idle_cpus
from onnxfq.benchmarking.paired import Rounds, make_samplers, time_side_by_side
from onnxfq.session import Session
from onnxfq.system.threads import processors

# Settings that differ from the defaults, and whether there is data.
FORMATS: dict[str, tuple[dict[str, Any], bool]] = {
    "defaults: 4 bits, block 32": ({}, False),
    "defaults, calibrated": ({}, True),
    "`--format int8`": ({"format": "int8"}, False),
    "`--format int8`, calibrated": ({"format": "int8"}, True),
    "`--format dgq`, calibrated": ({"format": "dgq"}, True),
    "`--format auto --workload encoder`": ({"format": "auto", "workload": "encoder"}, False),
}
DYNAMIC = "`quantize_dynamic(per_channel=True)`"
CASES = ((1, 128), (8, 64))  # texts, tokens of each


def quantize(model: Path, out: Path, name: str, calib: Path) -> dict[str, Any]:
    """Write a file; returns what it is, and what its products became."""
    if name == DYNAMIC:
        from onnxruntime.quantization import quantize_dynamic

        quantize_dynamic(str(model), str(out), per_channel=True)
        return {"file": name}
    changes, calibrated = FORMATS[name]
    given: dict[str, Any] = {"calib": calib, "samples": 10**6} if calibrated else {}
    report = onnxfq.quantize(model, out, validate=False, provider="cpu", **changes, **given)
    return {"file": name, "algorithm": report.algorithm}


def side_by_side(runs: Sequence[Callable[[], object]], seconds: float) -> Rounds:
    """Times of one thread on a processor, in turns, as `onnxfq benchmark` takes them on a busy machine."""
    samplers = make_samplers(runs, PROCESSOR)
    with spin_idle_cpus(PROCESSOR, processors()):
        return time_side_by_side(samplers, seconds=seconds, rng=np.random.default_rng(0))


def speeds(paths: Sequence[Path], calib: Path, seconds: float) -> list[dict[str, Any]]:
    """Of each file the milliseconds to load it, and how many times as fast as the first one it is, with an interval."""
    loading = side_by_side([partial(Session, path, threads=1) for path in paths], seconds)
    found: list[dict[str, Any]] = [{"load_ms": round(1e3 * time, 1)} for time in loading.times()]
    sessions = [Session(path, threads=1) for path in paths]
    words = np.concatenate([sample["input_ids"][0] for sample in read_samples(calib)])
    for batch, length in CASES:
        feed = encoder_batch(sessions[0], np.resize(words, (batch, length)))
        rounds = side_by_side([partial(session.run, feed) for session in sessions], seconds)
        for number, row in enumerate(found[1:], start=1):
            slower = rounds.ratio(number)
            ends = {"ratio": 1 / slower.middle, "low": 1 / slower.high, "high": 1 / slower.low}
            row[f"{batch}x{length}"] = {end: round(value, 3) for end, value in ends.items()}
    return found


def encoder_batch(model: Session, ids: Array) -> dict[str, Array]:
    """Everything an encoder wants for texts of one length."""
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return {spec.name: feed[spec.name] for spec in model.signature().inputs}


def main() -> None:
    """Write every file, judge it, and time all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sts", type=Path, required=True)
    parser.add_argument("--calib", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60.0, help="of timing, for each case")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    source = arguments.folder / "model.onnx"
    judge, original = judge_encoder(arguments.folder, arguments.sts)
    rows: list[dict[str, Any]] = [{"file": "original", "file_bytes": source.stat().st_size, **original}]
    with tempfile.TemporaryDirectory() as folder:
        paths = [source]
        for name in (*FORMATS, DYNAMIC):
            paths.append(Path(folder) / f"{len(paths)}.onnx")
            row = quantize(source, paths[-1], name, arguments.calib)
            rows.append({**row, "file_bytes": paths[-1].stat().st_size, **judge(paths[-1])})
            print(rows[-1], flush=True)
        timed = speeds(paths, arguments.calib, arguments.seconds)
    rows = [row | times for row, times in zip(rows, timed, strict=True)]
    write(arguments.out, {"model": arguments.folder.name, "samples": len(read_samples(arguments.calib)), "rows": rows})


if __name__ == "__main__":
    main()
