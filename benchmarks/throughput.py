"""Size and throughput of a decoder in float32, float16, 8 and 4 bits, beside published figures.

    python -m benchmarks.throughput models/opt-4m --out benchmarks/results/throughput.json
    python tools/generate_decoder.py big/1b --preset 1b
    python -m benchmarks.throughput big/1b --out benchmarks/results/throughput-1b.json

Takes any decoder with a KV cache, in float32 or float16. `onnxfq.benchmark` runs every file in turns with the two in
floating point: tokens a second, and how many times as fast, with an interval. ONNX Runtime computes float16 in float32
on a CPU, so both are there to compare with; a model that computes in float16 is quantized from either. "contents" in
the result says what the bytes of each file are: embeddings, norms and scales are not 4 bits, and in a small model they
are much of it. Codes do not change speed: the default algorithm is the quickest.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import onnxfq
from benchmarks.contents import contents
from benchmarks.machine import write
from benchmarks.precision import computes_in_half, read, write_float32, write_half

FORMATS = ((8, 32), (8, 128), (4, 32), (4, 128))  # bits, block size
PUBLISHED = {
    "source": "Kim et al. 2023, FineQuant: OPT-30B on GPUs, against float16",
    "float16_gb": 60.0,
    "quantized_gb": 15.5,
    "of_float16": 0.26,
    "decode_against_float16": 3.65,
}


def floating(source: Path, folder: Path) -> dict[str, Path]:
    """The model in float32 and in float16, one of them as it is."""
    found = {name: folder / name / "model.onnx" for name in ("float32", "float16")}
    found["float16" if has_halves(source) else "float32"] = source
    for name, path in found.items():
        if path != source:
            path.parent.mkdir()
            shutil.copyfile(source.parent / "config.json", path.parent / "config.json")
            (write_float32 if name == "float32" else write_half)(source, path)
    return found


def has_halves(source: Path) -> bool:
    """Whether the model stores weights as float16."""
    return any(tensor.data_type == tensor.FLOAT16 and len(tensor.dims) > 1 for tensor in read(source).graph.initializer)


def quantized(files: dict[str, Path], folder: Path, algorithm: str, bits_wanted: list[int]) -> list[dict[str, Any]]:
    """Rows of files to be measured: the formats, from float16 and, where the model computes in it, from float32."""
    sources = ["float32", "float16"] if computes_in_half(read(files["float16"])) else ["float16"]
    rows = []
    for origin in sources:
        for bits, block_size in (one for one in FORMATS if one[0] in bits_wanted):
            path = folder / f"{origin}-{bits}-{block_size}" / "model.onnx"
            path.parent.mkdir()
            shutil.copyfile(files["float32"].parent / "config.json", path.parent / "config.json")
            onnxfq.quantize(
                files[origin], path, bits=bits, block_size=block_size, algorithm=algorithm, provider="cpu",
                validate=False,
            )  # fmt: skip
            rows.append({"file": f"{bits} bits", "block_size": block_size, "from": origin, "path": path})
    return rows


def measured(path: Path, baselines: dict[str, Path], length: int, seconds: float, clock: str) -> dict[str, Any]:
    """Size, contents and speed of one file, and speed of those in floating point beside it."""
    found = onnxfq.benchmark(
        path, list(baselines.values()), provider="cpu", lengths=[length], seconds=seconds, loads=1, clock=clock
    )
    size = found.costs[0].file_bytes
    row: dict[str, Any] = {"file_bytes": size, "contents": contents(path, size)}
    row |= {"peak_bytes": found.costs[0].peak_bytes, "load_s": round(found.costs[0].load_seconds, 3)}
    for case in found.cases:
        timings = [timing.tokens_per_second or 0.0 for timing in case.timings]
        row[case.kind] = {
            "tokens_per_second": round(timings[0], 1),
            "of_limit": case.timings[0].limit_share and round(case.timings[0].limit_share, 3),
            "baseline_tokens_per_second": {n: round(t, 1) for n, t in zip(baselines, timings[1:], strict=True)},
            "against": {
                name: {"ratio": round(s.ratio, 3), "low": round(s.low, 3), "high": round(s.high, 3)}
                for name, s in zip(baselines, case.speedups, strict=True)
            },
            "waiting": case.waiting and round(case.waiting, 3),
        }
    return {**row, "clock": found.clock, "threads": found.threads, "bandwidth": round(found.bandwidth)}


def main() -> None:
    """Write all files, measure one after the other beside those in floating point, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with model.onnx and config.json")
    parser.add_argument("--algorithm", default="rtn")
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 4], choices=(8, 4))
    parser.add_argument("--length", type=int, default=128, help="tokens of the prompt")
    parser.add_argument("--seconds", type=float, default=20.0, help="at most for a case")
    parser.add_argument("--clock", default="wall", choices=("wall", "processor"), help="of `onnxfq benchmark`")
    parser.add_argument("--work", type=Path, help="where to put the files; a temporary folder by default")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        files = floating(arguments.folder / "model.onnx", Path(name))
        rows: list[dict[str, Any]] = [{"file": kind, "path": path} for kind, path in files.items()]
        rows += quantized(files, Path(name), arguments.algorithm, arguments.bits)
        for row in rows:
            path = row.pop("path")
            baselines = {kind: file for kind, file in files.items() if file != path}
            row |= measured(path, baselines, arguments.length, arguments.seconds, arguments.clock)
            print(row, flush=True)
    sizes = {row["file"]: row["file_bytes"] for row in rows[:2]}
    for row in rows:
        row |= {f"of_{kind}": round(row["file_bytes"] / size, 4) for kind, size in sizes.items()}
    settings = {"model": arguments.folder.resolve().name, "length": arguments.length, "algorithm": arguments.algorithm}
    write(arguments.out, {**settings, "published": PUBLISHED, "rows": rows})


if __name__ == "__main__":
    main()
