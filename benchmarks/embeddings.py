"""What quantizing embeddings costs and gains: the whole file, as the default settings write it, judged by its answers.

    python -m benchmarks.embeddings encoder ENCODER_DIR --sts stsb-test.csv --calib CALIB --out embeddings-minilm.json
    python -m benchmarks.embeddings decoder models/opt-4m --text wikitext2-test.txt --calib CALIB --out …

Each file is made from the model as it is, once without data and once calibrated; CALIB is what `benchmarks.calibration`
wrote. The judges are those of `benchmarks.quality`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import onnxfq
from benchmarks.inputs import session
from benchmarks.machine import write
from benchmarks.quality import judge_decoder, judge_encoder, one_token
from benchmarks.speed import interleaved

EMBEDDINGS = ("float", 8, 4)


def main() -> None:
    """Quantize with every setting, judge every file, and time them against the original in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("encoder", "decoder"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sts", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--windows", type=int, default=100)
    parser.add_argument("--calib", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    decoder, source = arguments.kind == "decoder", arguments.folder / "model.onnx"
    if decoder:
        judge, original = judge_decoder(arguments.folder, arguments.text, arguments.windows)
    else:
        judge, original = judge_encoder(arguments.folder, arguments.sts)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        sessions = {"original": session(source)}
        for embeddings in EMBEDDINGS:
            for calib in (None, arguments.calib):
                name = f"{embeddings}, {'calibrated' if calib else 'without data'}"
                out = Path(folder) / f"{len(rows)}.onnx"
                given: dict[str, Any] = {} if calib is None else {"calib": calib, "samples": 10**6, "seq_len": 512}
                report = onnxfq.quantize(source, out, embeddings=embeddings, validate=False, provider="cpu", **given)
                row = {"name": name, "embeddings": embeddings, "algorithm": report.algorithm}
                rows.append({**row, "file_bytes": out.stat().st_size, **judge(out)})
                print(rows[-1], flush=True)
                sessions[name] = session(out)
        ratios = interleaved(sessions, one_token(sessions["original"], decoder=decoder), "original")
    rows = [{**row, "one_token_speedup": ratios[row["name"]]} for row in rows]
    size = {"model": arguments.folder.name, "original_bytes": source.stat().st_size}
    write(arguments.out, {**size, "original": original, "rows": rows})


if __name__ == "__main__":
    main()
