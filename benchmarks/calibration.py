"""Calibration inputs that every tool reads: a folder of `.npz` files, one a sample, with every input of the model.

    python -m benchmarks.calibration encoder ENCODER_DIR --sts stsb-train.csv --samples 192 --out CALIB
    python -m benchmarks.calibration decoder models/opt-4m --text wikitext2-valid.txt --samples 128 --out CALIB

Encoders get every n-th row of STS-B, each of its two sentences a sample, as they are used, with the tokenizer's special
tokens and without padding; decoders the first windows of a text and an empty KV cache. `texts.jsonl` holds the same as
text. To read samples only numpy is needed: other tools do it in environments of their own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Sample = dict[str, npt.NDArray[Any]]
TEXTS = "texts.jsonl"


def read_samples(folder: Path) -> list[Sample]:
    """All samples of a folder, in order."""
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise FileNotFoundError(f"There are no .npz files in {folder}. Write some with benchmarks.calibration.")
    samples = []
    for path in paths:
        with np.load(path) as file:
            samples.append({name: file[name] for name in file.files})
    return samples


def write_samples(folder: Path, samples: Iterable[Sample], texts: Iterable[str]) -> None:
    """Write a folder of samples; what it held before of its kind goes."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.npz"):
        old.unlink()
    for index, sample in enumerate(samples):
        np.savez(folder / f"{index:05}.npz", **sample)  # type: ignore[arg-type]
    lines = (json.dumps({"text": text}, ensure_ascii=False) for text in texts)
    (folder / TEXTS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_encoder(folder: Path, sts: Path, count: int, out: Path) -> None:
    """Write both sentences of rows spread evenly over an STS-B file."""
    from benchmarks.inputs import encoder_feed, load_tokenizer, read_sts, session

    tokenizer, model = load_tokenizer(folder), session(folder / "model.onnx")
    first, second, _ = read_sts(sts)
    rows = range(0, len(first), max(1, len(first) // count))[:count]
    texts = [text for row in rows for text in (first[row], second[row])]
    write_samples(out, (encoder_feed(model, tokenizer.encode(text).ids) for text in texts), texts)


def write_decoder(folder: Path, text: Path, count: int, window: int, out: Path) -> None:
    """Write the first windows of a text."""
    from benchmarks.inputs import decoder_feed, load_tokenizer, session, text_windows

    tokenizer, model = load_tokenizer(folder), session(folder / "model.onnx")
    windows = text_windows(folder, text, count, window)
    write_samples(
        out, (decoder_feed(model, ids) for ids in windows), (tokenizer.decode(ids[0].tolist()) for ids in windows)
    )


def main() -> None:
    """Write the calibration inputs of one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("encoder", "decoder"))
    parser.add_argument("folder", type=Path, help="with model.onnx and tokenizer.json")
    parser.add_argument("--sts", type=Path, help="STS-B rows to take an encoder's texts from")
    parser.add_argument("--text", type=Path, help="text to take a decoder's windows from")
    parser.add_argument("--samples", type=int, default=128, help="of an encoder: rows, two sentences each")
    parser.add_argument("--window", type=int, default=256, help="tokens of a decoder's sample")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    needed = arguments.text if arguments.kind == "decoder" else arguments.sts
    if needed is None:
        parser.error("an encoder needs --sts, a decoder --text")
    if arguments.kind == "decoder":
        write_decoder(arguments.folder, needed, arguments.samples, arguments.window, arguments.out)
    else:
        write_encoder(arguments.folder, needed, arguments.samples, arguments.out)


if __name__ == "__main__":
    main()
