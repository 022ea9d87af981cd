"""Runs one quantiser on one model, alone in its process, so that time and memory are its own.

    python -m benchmarks.tools TOOL MODEL OUT --block-size 32

`measure` does that from another benchmark and returns wall time, processor time and peak memory.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Tool = Callable[[Path, Path, int], None]


def _onnxfq(algorithm: str) -> Tool:
    def run(model: Path, out: Path, block_size: int) -> None:
        import onnxfq

        scheme = onnxfq.Scheme(block_size=block_size)
        onnxfq.quantize(model, out, scheme=scheme, algorithm=algorithm, validate=False, provider="cpu")

    return run


def _onnxruntime(algorithm: str, accuracy_level: int | None = None) -> Tool:
    """ONNX Runtime's own quantiser, asymmetric, with its default settings but for block size and accuracy level."""

    def run(model: Path, out: Path, block_size: int) -> None:
        import onnx
        from onnxruntime.quantization import matmul_nbits_quantizer as ort

        config = {
            "rtn": lambda: ort.DefaultWeightOnlyQuantConfig(
                block_size=block_size, is_symmetric=False, accuracy_level=accuracy_level
            ),
            "hqq": lambda: ort.HQQWeightOnlyQuantConfig(block_size=block_size),
            "k-quant": lambda: ort.KQuantWeightOnlyQuantConfig(),
        }[algorithm]()
        quantizer = ort.MatMulNBitsQuantizer(
            onnx.load(str(model)), block_size=block_size, is_symmetric=False, accuracy_level=accuracy_level,
            algo_config=config,
        )  # fmt: skip
        quantizer.process()
        quantizer.model.save_model_to_file(str(out), model.stat().st_size < 2**20 or _is_large(model))

    return run


def _is_large(model: Path) -> bool:
    return sum(f.stat().st_size for f in model.parent.iterdir() if f.is_file()) > 2**30


TOOLS: dict[str, Tool] = {
    "onnxfq rtn": _onnxfq("rtn"),
    "onnxfq hqq": _onnxfq("hqq"),
    "onnxruntime rtn": _onnxruntime("rtn"),
    "onnxruntime rtn, accuracy_level 4": _onnxruntime("rtn", 4),
    "onnxruntime k-quant": _onnxruntime("k-quant"),
    "onnxruntime hqq": _onnxruntime("hqq"),
}


def measure(tool: str, model: Path, out: Path, block_size: int) -> dict[str, Any]:
    """Run a tool in a process of its own.

    Returns:
        Seconds by the clock and of processor time, peak memory in bytes, exit code, and the end of what it printed if
        it failed.
    """
    command = [sys.executable, "-m", "benchmarks.tools", tool, str(model), str(out), "--block-size", str(block_size)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    text = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    code = os.waitstatus_to_exitcode(status)
    peak = [line.split()[1] for line in text.splitlines() if line.startswith("VmHWM:")]
    result = {
        "wall_s": round(wall, 2),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_bytes": int(peak[-1]) * 1024 if peak else None,
        "exit_code": code,
    }
    process.returncode = code
    return result if code == 0 else {**result, "error": text[-500:]}


def main() -> None:
    """Run one tool."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--block-size", type=int, default=32)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as onnxfq's command line does
    np.random.seed(0)  # noqa: NPY002 (what other tools use)
    TOOLS[arguments.tool](arguments.model, arguments.out, arguments.block_size)
    # The kernel's own high-water mark of this process; what wait4 returns counts the parent's memory before exec too.
    print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")))


if __name__ == "__main__":
    main()
