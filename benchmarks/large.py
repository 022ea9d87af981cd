"""Time and memory of quantizing a model of some gigabytes, tool by tool, whole processes, in turn.

    python -m benchmarks.large --out benchmarks/results/large.json

The first run of every tool is not counted (compiled code and file caches are cold); of the others the median counts.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.generate import write_stack
from benchmarks.machine import write
from benchmarks.tools import TOOLS, measure


def main() -> None:
    """Generate the model, run the tools in turn, write medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--inner", type=int, default=16384)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="count the first run of every tool too")
    parser.add_argument("--tools", nargs="+", default=["onnxfq rtn", "onnxruntime rtn"], choices=TOOLS)
    parser.add_argument("--folder", type=Path, help="where to put the files; a temporary folder by default")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows: dict[str, list[dict[str, Any]]] = {tool: [] for tool in arguments.tools}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        model = Path(folder) / "model.onnx"
        write_stack(model, layers=arguments.layers, width=arguments.width, inner=arguments.inner)
        source = sum(f.stat().st_size for f in Path(folder).iterdir())
        for run in range(arguments.runs + (not arguments.cold)):
            for tool in arguments.tools:
                out = Path(folder) / "out" / "model.onnx"
                out.parent.mkdir()
                row = measure(tool, model, out, 32)
                print(run, tool, row, flush=True)
                size = sum(f.stat().st_size for f in out.parent.iterdir())
                if run or arguments.cold:
                    rows[tool].append({**row, "output_bytes": size})
                shutil.rmtree(out.parent)
    result = {
        tool: {key: statistics.median(r[key] for r in rs) for key in ("wall_s", "cpu_s", "peak_bytes")}
        for tool, rs in rows.items()
    }
    first = arguments.tools[0]
    ratios = {tool: round(result[tool]["wall_s"] / result[first]["wall_s"], 2) for tool in arguments.tools[1:]}
    memory = {tool: round(result[tool]["peak_bytes"] / result[first]["peak_bytes"], 2) for tool in arguments.tools[1:]}
    print(result, ratios, memory)
    sizes = {"source_bytes": source, "output_bytes": rows[first][-1]["output_bytes"]}
    comparison = {"medians": result, "times_as_long": ratios, "times_the_memory": memory, "runs": rows}
    write(arguments.out, {**sizes, **comparison})


if __name__ == "__main__":
    main()
