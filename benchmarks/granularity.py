"""How much a coarser grid costs: per-tensor, per-channel and block 128 at 4 bits, as perplexity.

    python -m benchmarks.granularity models/opt-4m --text wikitext2-test.txt --calib CALIB \
        --out benchmarks/results/granularity.json

CALIB is what `benchmarks.calibration` wrote. Prints the table too. The judge is that of `benchmarks.quality`. Beside
the measured figures stand those that FineQuant (Kim et al. 2023) and the guide after it give for OPT-30B.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import onnxfq
from benchmarks.machine import write
from benchmarks.quality import judge_decoder

PUBLISHED = {"tensor": 43.5, "channel": 7.1, 128: 0.6}  # OPT-30B, perplexity 8.50 in fp16: rises in per cent
ALGORITHMS = ("rtn", "hqq", "gptq")


def main() -> None:
    """Quantize at every granularity with every algorithm, judge the files, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=200)
    parser.add_argument("--calib", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    judge, original = judge_decoder(arguments.folder, arguments.text, arguments.windows)
    rows: list[dict[str, Any]] = []
    print(f"float: perplexity {original['perplexity']}")
    print(f"{'granularity':12} {'algorithm':10} {'perplexity':>10} {'rise':>8} {'published rise':>15} {'mean KL':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for granularity, published in PUBLISHED.items():
            for algorithm in ALGORITHMS:
                out = Path(folder) / "model.onnx"
                onnxfq.quantize(
                    arguments.folder / "model.onnx", out, algorithm=algorithm, block_size=granularity,
                    symmetric=False, calib=arguments.calib, samples=10**6, validate=False, provider="cpu",
                )  # fmt: skip
                found = judge(out)
                rise = round(100 * found["perplexity_rise"] / original["perplexity"], 2)
                rows.append({"granularity": granularity, "algorithm": algorithm, "rise_percent": rise, **found})
                print(
                    f"{granularity!s:12} {algorithm:10} {found['perplexity']:10.3f} {rise:7.2f}% {published:14.1f}% "
                    f"{found['mean_kl']:9.5f}",
                    flush=True,
                )
    write(arguments.out, {"model": arguments.folder.name, "original": original, "published": PUBLISHED, "rows": rows})


if __name__ == "__main__":
    main()
