"""The calibrated stack on a decoder of 1 to 2 GB: peak memory, and where the time goes.

    python -m benchmarks.calibrated --out benchmarks/results/calibrated.json

Generates the model (float32, Llama-like), and calibrates it with random tokens in a process of its own, where the clock
is read around the parts of the work. Random tokens are as much work as text; accuracy is not looked at. Solving is held
against bare products W H of every weight [N, K] with a matrix [K, K], timed in the same process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import write
from benchmarks.tools import ROOT
from tools.generate_decoder import Decoder, write_decoder

SAMPLES, TOKENS = 32, 128
DECODER = Decoder(layers=16, hidden=1536, inner=4096, heads=12, kv_heads=4, vocab=16000, dtype="float32")
# Parts of the work by the functions that do them; none of them calls another one.
PARTS = {
    "running samples, summing their statistics": ("onnxfq.calibration.streams:Streams._run",),
    "solving and packing": ("onnxfq.quantization.solve:solve_weight",),
    "checkpoints": ("onnxfq.calibration.checkpoint:Checkpoint.save",),
    "writing": ("onnxfq.pipeline:save",),
    "verifying": ("onnxfq.pipeline:verify",),
}


def timed(seconds: dict[str, float]) -> None:
    """Read the clock around the functions of every part."""
    from importlib import import_module

    for part, places in PARTS.items():
        for place in places:
            module, _, path = place.partition(":")
            *owners, name = path.split(".")
            owner: Any = import_module(module)
            for attribute in owners:
                owner = getattr(owner, attribute)
            setattr(owner, name, _timed(getattr(owner, name), part, seconds))


def _timed(function: Callable[..., Any], part: str, seconds: dict[str, float]) -> Callable[..., Any]:
    def wrapped(*args: object, **kwargs: object) -> object:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[part] += time.perf_counter() - start

    return wrapped


def calibrate(model: Path, out: Path, calib: Path, algorithm: str, memory: str) -> dict[str, Any]:
    """Quantize, in this process; returns seconds of each part and the peak of the memory."""
    import onnxfq

    seconds: dict[str, float] = defaultdict(float)
    timed(seconds)
    start = time.perf_counter()
    report = onnxfq.quantize(
        model, out, algorithm=algorithm, calib=calib, samples=SAMPLES, provider="cpu", validate=False, memory=memory
    )
    total = time.perf_counter() - start
    seconds["everything else"] = total - sum(seconds.values())
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    products = sum(2 * target.n * target.k**2 for target in report.targets) / bare_product()
    solving = seconds["solving and packing"]
    return {
        "wall_s": round(total, 1),
        "seconds": {part: round(value, 1) for part, value in seconds.items()},
        "peak_bytes": int(peak.split()[1]) * 1024,
        "weights": sum(target.n * target.k for target in report.targets),
        "bare_products_s": round(products, 2),
        "solving_times_bare_products": round(solving / products, 1),
    }


def bare_product(size: int = 3072) -> float:
    """Operations a second of a product of float32 matrices: the limit of all that is one."""
    a, b = (np.random.default_rng(seed).standard_normal((size, size), np.float32) for seed in range(2))
    times = []
    for _ in range(4):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def main() -> None:
    """Generate, calibrate in a process of its own, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", default="gptq")
    parser.add_argument("--memory", default="2GB")
    parser.add_argument("--folder", type=Path, help="where to put the files; a temporary folder by default")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--child", nargs=3, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(calibrate(*arguments.child, arguments.algorithm, arguments.memory)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder, calib = Path(name), Path(name, "calib")
        calib.mkdir()
        write_decoder(folder, DECODER)
        rng = np.random.default_rng(0)
        for sample in range(SAMPLES):
            np.savez(calib / f"{sample:03}.npz", input_ids=rng.integers(DECODER.vocab, size=(1, TOKENS)))
        source = sum(file.stat().st_size for file in folder.glob("model.onnx*"))
        command = [sys.executable, "-m", "benchmarks.calibrated", "--out", os.devnull]
        command += ["--algorithm", arguments.algorithm, "--memory", arguments.memory, "--child"]
        files = [str(folder / "model.onnx"), str(folder / "o.onnx"), str(calib)]
        done = subprocess.run([*command, *files], cwd=ROOT, check=True, stdout=subprocess.PIPE)
        output = sum(file.stat().st_size for file in folder.glob("o.onnx*"))
    row = json.loads(done.stdout)
    print(row)
    settings = {"algorithm": arguments.algorithm, "memory": arguments.memory, "samples": SAMPLES, "tokens": TOKENS}
    write(arguments.out, {**settings, "source_bytes": source, "output_bytes": output, **row})


if __name__ == "__main__":
    main()
