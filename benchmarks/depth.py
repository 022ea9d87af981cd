"""Peak memory of calibrating a deep and a shallow model of the same layers: it must not grow with depth.

python -m benchmarks.depth --out benchmarks/results/depth.json
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.generate import write_stack
from benchmarks.machine import write
from benchmarks.tools import measure

SAMPLES, ROWS = 16, 128


def main() -> None:
    """Generate, calibrate and solve both models, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs=2, default=[12, 48])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--inner", type=int, default=2048)
    parser.add_argument("--tool", default="onnxfq gptq")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for layers in arguments.layers:
        with tempfile.TemporaryDirectory() as name:
            folder, calib = Path(name), Path(name, "calib")
            calib.mkdir()
            write_stack(folder / "model.onnx", layers=layers, width=arguments.width, inner=arguments.inner)
            rng = np.random.default_rng(0)
            for sample in range(SAMPLES):
                np.savez(calib / f"{sample:03}.npz", x=rng.standard_normal((1, ROWS, arguments.width), np.float32))
            source = (folder / "model.onnx_data").stat().st_size
            row = measure(arguments.tool, folder / "model.onnx", folder / "out.onnx", 32, calib)
            rows.append({"layers": layers, "source_bytes": source, **row})
            print(rows[-1], flush=True)
    ratio = round(rows[1]["peak_bytes"] / rows[0]["peak_bytes"], 3)
    print(f"peak memory of {rows[1]['layers']} layers against {rows[0]['layers']}: {ratio}x")
    settings = {"width": arguments.width, "inner": arguments.inner, "samples": SAMPLES, "rows_a_sample": ROWS}
    write(arguments.out, {**settings, "rows": rows, "memory_ratio": ratio})


if __name__ == "__main__":
    main()
