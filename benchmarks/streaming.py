"""Time and memory of quantizing a model of many gigabytes without data, against copying its files; all caches cold.

    python tools/generate_decoder.py big/7b --preset 7b
    python -m benchmarks.streaming big/7b/model.onnx --out benchmarks/results/streaming-7b.json

Files are dropped from the page cache before every run (Linux only). `--validate` adds a run with the comparison of the
two models, which the other rows leave out.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import write
from benchmarks.tools import ROOT, measure

CHUNK = 1 << 24


def drop(files: list[Path]) -> None:
    """Write everything back and forget the files' pages."""
    os.sync()
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def copied(files: list[Path], folder: Path) -> float:
    """Seconds of copying files and writing them back."""
    drop(files)
    start = time.perf_counter()
    subprocess.run(["cp", *map(str, files), str(folder)], check=True)
    os.sync()
    seconds = time.perf_counter() - start
    for file in files:
        (folder / file.name).unlink()
    return seconds


def read(files: list[Path]) -> float:
    """Seconds of reading files."""
    drop(files)
    buffer = bytearray(CHUNK)
    start = time.perf_counter()
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass
    return time.perf_counter() - start


VALIDATED = """
import sys
import onnxfq
report = onnxfq.quantize(sys.argv[1], sys.argv[2], algorithm=sys.argv[3], provider="cpu")
print(max(output.relative_mse or 0.0 for output in report.outputs))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")))
"""


def validated(model: Path, out: Path, algorithm: str) -> dict[str, Any]:
    """A whole run, the comparison with the original included."""
    command = [sys.executable, "-c", VALIDATED, str(model), str(out), algorithm]
    start = time.perf_counter()
    error, peak = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    result = {"wall_s": round(time.perf_counter() - start, 2), "peak_bytes": int(peak) * 1024}
    return {"tool": f"onnxfq {algorithm}, compared with the original", **result, "largest_relative_mse": float(error)}


def main() -> None:
    """Copy, read and quantize in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--algorithms", nargs="+", default=["rtn", "hqq"])
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--folder", type=Path, help="where to put the files; beside the model by default")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    files = sorted(arguments.model.parent.glob(f"{arguments.model.name}*"))
    size = sum(file.stat().st_size for file in files)
    with tempfile.TemporaryDirectory(dir=arguments.folder or arguments.model.parent) as name:
        folder = Path(name)
        limits = {"copy_and_sync_s": round(copied(files, folder), 2), "read_s": round(read(files), 2)}
        print(limits, flush=True)
        rows = []
        for algorithm in arguments.algorithms:
            drop(files)
            row = {
                "tool": f"onnxfq {algorithm}",
                **measure(f"onnxfq {algorithm}", arguments.model, folder / "o.onnx", 32),
            }
            row["times_copying"] = round(row["wall_s"] / limits["copy_and_sync_s"], 3)
            row["output_bytes"] = sum(file.stat().st_size for file in folder.iterdir())
            rows.append(row)
            print(row, flush=True)
        if arguments.validate:
            row = validated(arguments.model.resolve(), folder / "o.onnx", arguments.algorithms[0])
            rows.append({**row, "output_bytes": rows[0]["output_bytes"]})
            print(rows[-1], flush=True)
    write(arguments.out, {"source_bytes": size, "limits": limits, "rows": rows})


if __name__ == "__main__":
    main()
