"""What tuning by gradients (`tune`) gains behind the calibrated stack, by bits, block size and embeddings.

    python -m benchmarks.tuning models/opt-4m --text wikitext2-test.txt --calib CALIB --out tuning-opt-4m.json

CALIB is what `benchmarks.calibration` wrote; the judge is that of `benchmarks.quality`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import onnxfq
from benchmarks.machine import write
from benchmarks.quality import judge_decoder

SCHEMES: tuple[tuple[int, int], ...] = ((2, 32), (4, 32), (4, 128))
EMBEDDINGS: tuple[int | str, ...] = ("float", 8)
PASSES = (0, 2, 8)


def main() -> None:
    """Quantize with every scheme, tuned and not, and judge the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=100)
    parser.add_argument("--calib", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    judge, original = judge_decoder(arguments.folder, arguments.text, arguments.windows)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for embeddings in EMBEDDINGS:
            for bits, block_size in SCHEMES:
                for passes in PASSES:
                    out = Path(folder) / "model.onnx"
                    onnxfq.quantize(
                        arguments.folder / "model.onnx", out, bits=bits, block_size=block_size, embeddings=embeddings,
                        symmetric=False, calib=arguments.calib, samples=10**6, algorithm="gptq", tune=passes,
                        validate=False, provider="cpu",
                    )  # fmt: skip
                    row = {"embeddings": embeddings, "bits": bits, "block_size": block_size, "passes": passes}
                    rows.append({**row, **judge(out)})
                    print(rows[-1], flush=True)
    write(arguments.out, {"model": arguments.folder.name, "original": original, "rows": rows})


if __name__ == "__main__":
    main()
