"""Runs one quantizer on one model, alone in its process, so that time and memory are its own.

    python -m benchmarks.tools TOOL MODEL OUT --block-size 32 --calib CALIB

`measure` does that from another benchmark and returns wall time, processor time and peak memory. Tools that need an
environment of their own run in `$ONNXFQ_RIVALS/rivals-NAME` (see `benchmarks.rivals`); CALIB is what
`benchmarks.calibration` wrote, and goes to every tool that calibrates.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import rivals
from benchmarks.machine import versions
from benchmarks.rivals import Run

ROOT = Path(__file__).parents[1]
NOT_INSTALLED = "not installed"
_NOT_INSTALLED_CODE = 3
_VERSIONS = "versions: "


@dataclass(frozen=True, slots=True)
class Tool:
    """A quantizer with its settings.

    Attributes:
        run: quantizes a model into a file, with a block size and, if it calibrates, the folder of samples.
        environment: the name of the environment it needs; None for the one that runs the benchmarks.
        calibrates: it needs samples.
    """

    run: Run
    environment: str | None = None
    calibrates: bool = False


def _onnxfq(algorithm: str) -> Run:
    """Our default settings but for block size and algorithm; every sample is used."""

    def run(model: Path, out: Path, block_size: int, calib: Path | None) -> None:
        import onnxfq

        given: dict[str, Any] = {} if calib is None else {"calib": calib, "samples": 10**6, "seq_len": 512}
        scheme = onnxfq.Scheme(block_size=block_size)
        onnxfq.quantize(model, out, scheme=scheme, algorithm=algorithm, validate=False, provider="cpu", **given)

    return run


def _onnxruntime(algorithm: str, accuracy_level: int | None = None) -> Run:
    """ONNX Runtime's own quantizer, asymmetric, with its default settings but for block size and accuracy level."""

    def run(model: Path, out: Path, block_size: int, _: Path | None) -> None:
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
    "onnxfq rtn": Tool(_onnxfq("rtn")),
    "onnxfq hqq": Tool(_onnxfq("hqq")),
    "onnxfq gptq": Tool(_onnxfq("gptq"), calibrates=True),
    "onnxfq awq": Tool(_onnxfq("awq"), calibrates=True),
    "onnxruntime rtn": Tool(_onnxruntime("rtn"), "ort"),
    "onnxruntime rtn, accuracy_level 4": Tool(_onnxruntime("rtn", 4), "ort"),
    "onnxruntime k-quant": Tool(_onnxruntime("k-quant"), "ort"),
    "onnxruntime hqq": Tool(_onnxruntime("hqq"), "ort"),
    "onnxruntime gptq": Tool(rivals.onnxruntime_gptq(symmetric=False), "ort", calibrates=True),
    "onnxruntime gptq, symmetric": Tool(rivals.onnxruntime_gptq(symmetric=True), "ort", calibrates=True),
    "modelopt awq_lite, zero points": Tool(rivals.modelopt("awq_lite", zero_points=True), "modelopt", calibrates=True),
    "modelopt awq_clip": Tool(rivals.modelopt("awq_clip", zero_points=False), "modelopt", calibrates=True),
    "nncf int4 asym": Tool(rivals.nncf(calibrated=False), "nncf"),
    "nncf awq + scale estimation": Tool(rivals.nncf(calibrated=True), "nncf", calibrates=True),
}


def measure(tool: str, model: Path, out: Path, block_size: int, calib: Path | None = None) -> dict[str, Any]:
    """Run a tool in a process of its own.

    Returns:
        Seconds by the clock and of processor time, peak memory in bytes, exit code, and the last line it printed if
        it failed, or that it is not installed. Tools in environments of their own add its versions.
    """
    python = _interpreter(TOOLS[tool])
    if not python.exists():
        return {"exit_code": _NOT_INSTALLED_CODE, "error": NOT_INSTALLED}
    command = [str(python), "-m", "benchmarks.tools", tool, str(model.resolve()), str(out.resolve())]
    command += ["--block-size", str(block_size)]
    if TOOLS[tool].calibrates and calib is not None:
        command += ["--calib", str(calib.resolve())]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
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
    if code == _NOT_INSTALLED_CODE and TOOLS[tool].environment:
        return {"exit_code": code, "error": NOT_INSTALLED}
    if TOOLS[tool].environment and code == 0:
        line = next(line for line in reversed(text.splitlines()) if line.startswith(_VERSIONS))
        result["versions"] = json.loads(line.removeprefix(_VERSIONS))
    return result if code == 0 else {**result, "error": _last_line(text)}


def _last_line(text: str) -> str:
    """Of what a process printed, the line that says what went wrong; the lines before it tell where files lie."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")[:500]


def _interpreter(tool: Tool) -> Path:
    folder = os.environ.get("ONNXFQ_RIVALS")
    if tool.environment is None or not folder:
        return Path(sys.executable)
    return Path(folder) / f"rivals-{tool.environment}" / "bin" / "python"


def main() -> None:
    """Run one tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--block-size", type=int, default=32)
    parser.add_argument("--calib", type=Path)
    arguments = parser.parse_args()
    np.random.seed(0)  # noqa: NPY002 (what other tools use)
    tool = TOOLS[arguments.tool]
    try:
        tool.run(arguments.model, arguments.out, arguments.block_size, arguments.calib)
    except ModuleNotFoundError as error:
        if tool.environment is None:
            raise
        print(error)
        sys.exit(_NOT_INSTALLED_CODE)
    print(f"{_VERSIONS}{json.dumps(versions())}")
    # The kernel's own high-water mark of this process; what wait4 returns counts the parent's memory before exec too.
    print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")))


if __name__ == "__main__":
    main()
