"""Which errors go with which loss at a model's task: what the bands of the verdict (`onnxfq.reports.bands`) rest on.

    python -m benchmarks.bands encoder ENCODER_DIR --sts stsb-test.csv --calib CALIB --out bands-minilm.json
    python -m benchmarks.bands decoder models/opt-4m --text wikitext2-test.txt --calib CALIB --out bands-opt-4m.json

Bits, block sizes and algorithms from harmless to ruinous, and between them 4 bits with the first layers in 2; the rest
is left as by default. CALIB is what `benchmarks.calibration` wrote. The judges are those of `benchmarks.quality`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxfq
from benchmarks.machine import write
from benchmarks.quality import judge_decoder, judge_encoder

SETTINGS: list[tuple[int, int | str, str]] = [  # bits, block size, algorithm
    *((8, block, "rtn") for block in (32, 128, "channel")),
    *((4, block, algorithm) for block in (32, 128, "channel") for algorithm in ("gptq", "hqq", "rtn")),
    *((2, block, algorithm) for block in (32, 128) for algorithm in ("gptq", "hqq", "rtn")),
]

IN_2_BITS = (1, 2)  # so many first layers


def settings() -> Iterator[dict[str, Any]]:
    """Each by the names of `onnxfq.Options`."""
    for bits, block_size, algorithm in SETTINGS:
        yield {"bits": bits, "block_size": block_size, "algorithm": algorithm}
    for count in IN_2_BITS:
        first = rf"layers?\.[0-{count - 1}]/"  # of OPT, of BERT
        yield {"bits": 4, "block_size": 32, "algorithm": "hqq", "schemes": {first: {"bits": 2}}}


def main() -> None:
    """Quantize with every setting and judge every file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("encoder", "decoder"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sts", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--windows", type=int, default=100)
    parser.add_argument("--calib", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.kind == "decoder":
        judge, original = judge_decoder(arguments.folder, arguments.text, arguments.windows)
    else:
        judge, original = judge_encoder(arguments.folder, arguments.sts)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for chosen in settings():
            out = Path(folder) / "model.onnx"
            data = {"calib": arguments.calib, "samples": 10**6} if chosen["algorithm"] == "gptq" else {}
            onnxfq.quantize(
                arguments.folder / "model.onnx", out, allow_slow=True, validate=False, provider="cpu", **chosen, **data
            )
            rows.append({**chosen, **judge(out)})
            print(rows[-1], flush=True)
    write(arguments.out, {"model": arguments.folder.name, "original": original, "rows": rows})


if __name__ == "__main__":
    main()
