"""What each step of the calibrated stack is worth: built up one by one, and switched off one by one.

    python -m benchmarks.ablation encoder ENCODER_DIR --sts stsb-test.csv --calib CALIB --out steps-minilm.json
    python -m benchmarks.ablation decoder models/opt-4m --text wikitext2-test.txt --calib CALIB --out steps-opt.json

CALIB is what `benchmarks.calibration` wrote, or `self`: 128 samples of the model's own making. The judge is that of
`benchmarks.quality`, on the written files.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import onnxfq
from benchmarks.machine import write
from benchmarks.quality import judge_decoder, judge_encoder

PLAIN = "alpha=0,act_order=false,refine=0,bias=false"
ROWS = {
    "round to nearest": "rtn",
    "data-free grid (hqq)": "hqq",
    "gptq on the weighted grid": f"gptq:{PLAIN}",
    "+ act-order": "gptq:alpha=0,refine=0,bias=false",
    "+ asymmetric target": "gptq:refine=0,bias=false",
    "+ bias correction": "gptq:refine=0",
    "+ refinement: the full stack": "gptq",
    "full, without act-order": "gptq:act_order=false",
    "full, without asymmetric target": "gptq:alpha=0",
    "full, without bias correction": "gptq:bias=false",
    "full, refined once": "gptq:refine=1",
    "full, refined four times": "gptq:refine=4",
}


def main() -> None:
    """Quantize with every row's settings and judge the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("encoder", "decoder"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sts", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--windows", type=int, default=100)
    parser.add_argument("--calib", required=True)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--block-size", type=int, default=32)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS, metavar="ROW")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.kind == "decoder":
        judge, original = judge_decoder(arguments.folder, arguments.text, arguments.windows)
    else:
        judge, original = judge_encoder(arguments.folder, arguments.sts)
    samples: dict[str, Any] = {"samples": 128, "seq_len": 64} if arguments.calib == "self" else {"samples": 10**6}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.rows:
            out = Path(folder) / "model.onnx"
            start = time.perf_counter()
            onnxfq.quantize(
                arguments.folder / "model.onnx", out, algorithm=ROWS[name], bits=arguments.bits,
                block_size=arguments.block_size, symmetric=False, calib=arguments.calib, validate=False,
                provider="cpu", **samples,
            )  # fmt: skip
            seconds = round(time.perf_counter() - start, 1)
            rows.append({"step": name, "algorithm": ROWS[name], "seconds": seconds, **judge(out)})
            print(rows[-1], flush=True)
    settings = {"model": arguments.folder.name, "bits": arguments.bits, "block_size": arguments.block_size}
    write(arguments.out, {**settings, "original": original, "rows": rows})


if __name__ == "__main__":
    main()
