"""How much the speed-up that `onnxfq benchmark` reports varies from run to run, with and without other load.

    python -m benchmarks.repeatability --out benchmarks/results/repeatability.json
    python -m benchmarks.repeatability MODEL BASELINE --runs 5 --out repeatability.json

Without a pair it is models/opt-4m in 4 bits against itself in floating point. Every run is a process of its own, as a
user would repeat it; the load is one busy process a processor, which this program starts and ends.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnxfq
from benchmarks.machine import write
from benchmarks.tools import ROOT
from onnxfq.system.threads import processors

TARGET = 0.03  # largest ratio over smallest, less 1
LOADS = ("none of its own", "one busy process a processor")
_BUSY = "while True: pass"


@contextlib.contextmanager
def load(count: int) -> Iterator[None]:
    """Keep so many processes busy meanwhile."""
    running = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def run(model: Path, baseline: Path, options: Sequence[str]) -> dict[str, Any]:
    """What one run of `onnxfq benchmark` reports."""
    command = [sys.executable, "-m", "onnxfq", "benchmark", str(model), "--baseline", str(baseline), "--json"]
    done = subprocess.run(
        [*command, "--provider", "cpu", "--loads", "1", "--quiet", *options],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def spread(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each case the speed-ups of all runs, and how far they are apart."""
    rows = []
    for cases in zip(*(one["cases"] for one in found), strict=True):
        speedups = [case["speedups"][0] for case in cases]
        ratios = [round(speedup["ratio"], 4) for speedup in speedups]
        row = {key: cases[0][key] for key in ("kind", "batch", "length")}
        row |= {"speedups": ratios, "varies": round(max(ratios) / min(ratios) - 1, 4)}
        row["intervals"] = [[round(speedup[end], 4) for end in ("low", "high")] for speedup in speedups]
        rows.append({**row, "rounds": [case["rounds"] for case in cases]})
    return rows


def main() -> None:
    """Repeat the benchmark under every load, print and write how far the speed-ups are apart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("baseline", nargs="?", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--load", nargs="+", default=list(LOADS), choices=LOADS)
    parser.add_argument("--seconds", type=float, default=20.0, help="at most for a case")
    parser.add_argument("--lengths", default="128")
    parser.add_argument("--clock", default="processor")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.model is not None and arguments.baseline is None:
        parser.error("a model needs a baseline")
    options = ["--seconds", str(arguments.seconds), "--lengths", arguments.lengths, "--clock", arguments.clock]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        model, baseline = arguments.model, arguments.baseline
        if model is None:
            model, baseline = Path(folder) / "opt-4m.int4.onnx", ROOT / "models" / "opt-4m" / "model.onnx"
            onnxfq.quantize(baseline, model, algorithm="rtn", provider="cpu", validate=False)
        for what in arguments.load:
            with load(0 if what == LOADS[0] else processors()):
                found = [run(model.resolve(), baseline.resolve(), options) for _ in range(arguments.runs)]
            clocks = [one["clock"] for one in found]
            for row in spread(found):
                rows.append({"load": what, "clocks": clocks, **row})
                print(rows[-1], flush=True)
    name = baseline.resolve().parent.name
    write(arguments.out, {"model": name, "runs": arguments.runs, "target": TARGET, "rows": rows})


if __name__ == "__main__":
    main()
