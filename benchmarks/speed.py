"""Times of sessions in turn, and the speed of one-token products on 4096-wide layers.

    python -m benchmarks.speed --out benchmarks/results/decode_4096.json

Writes a float model of eight 4096 x 4096 MatMuls, lets every tool quantize it, and runs all files in turn with one row.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.generate import write_stack
from benchmarks.inputs import session
from benchmarks.machine import write
from benchmarks.tools import TOOLS, measure

ROUNDS = 60


def interleaved(
    sessions: dict[str, ort.InferenceSession], feed: dict[str, Any], baseline: str, rounds: int = ROUNDS
) -> dict[str, float]:
    """How many times as fast as the baseline each session is: the median over rounds in which all run in turn."""
    times: dict[str, list[float]] = {name: [] for name in sessions}
    shuffle = np.random.default_rng(0)
    for round_ in range(rounds + 3):
        for name in shuffle.permutation(list(sessions)):  # nobody always runs after the same neighbour
            session = sessions[name]
            start = time.perf_counter()
            session.run(None, feed)
            if round_ >= 3:
                times[name].append(time.perf_counter() - start)
    base = times[baseline]
    return {
        name: round(statistics.median(b / t for b, t in zip(base, values, strict=True)), 3)
        for name, values in times.items()
        if name != baseline
    }


def main() -> None:
    """Compare decode speed of every tool's file on wide layers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--block-size", type=int, default=32)
    usual = [t for t, tool in TOOLS.items() if tool.environment in (None, "ort") and not tool.calibrates]
    default = [t for t in usual if "k-quant" not in t]
    parser.add_argument("--tools", nargs="+", default=default, choices=TOOLS)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        write_stack(model, layers=arguments.layers, width=arguments.width, inner=arguments.width)
        paths = {"original": model}
        for tool in arguments.tools:
            out = Path(folder) / tool.replace(" ", "-").replace(",", "") / "model.onnx"
            out.parent.mkdir()
            row = measure(tool, model, out, arguments.block_size)
            print(tool, row, flush=True)
            if row["exit_code"] == 0:
                paths[tool] = out
        sessions = {name: session(path) for name, path in paths.items()}
        x = np.random.default_rng(0).standard_normal((1, arguments.width)).astype(np.float32)
        ratios = interleaved(sessions, {"x": x}, "original")
    print(ratios)
    shape = {"layers": arguments.layers, "width": arguments.width, "block_size": arguments.block_size, "rows": 1}
    write(arguments.out, {**shape, "speedup_over_float32": ratios})


if __name__ == "__main__":
    main()
