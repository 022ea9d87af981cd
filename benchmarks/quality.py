"""Accuracy, time, memory and decode speed of every tool's 4-bit file, side by side.

    python -m benchmarks.quality encoder ENCODER_DIR --sts stsb-test.csv --out benchmarks/results/minilm.json
    python -m benchmarks.quality decoder models/opt-4m --text wikitext2-test.txt --out benchmarks/results/opt.json

ENCODER_DIR and the decoder's folder hold model.onnx and tokenizer.json. The judge is ONNX Runtime on the written files.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from tokenizers import Tokenizer

from benchmarks.machine import write
from benchmarks.plain import write_plain
from benchmarks.speed import interleaved, session
from benchmarks.tools import TOOLS, measure

Array = npt.NDArray[Any]
Judge = Callable[[Path], dict[str, float]]
WINDOW = 256


def load_tokenizer(folder: Path) -> Tokenizer:
    """The folder's tokenizer, without the padding and cutting it was saved with."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(128)
    return tokenizer


# Encoders ------------------------------------------------------------------------------------------------------------


def read_sts(path: Path) -> tuple[list[str], list[str], Array]:
    """First sentences, second sentences, scores."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if len(row) >= 3 and _is_number(row[2])]
    return [r[0] for r in rows], [r[1] for r in rows], np.array([float(r[2]) for r in rows])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def hidden_states(model: ort.InferenceSession, tokenizer: Tokenizer, sentences: list[str]) -> Iterator[Array]:
    """The final hidden state of each sentence, encoded alone: [tokens, features]."""
    names = {i.name for i in model.get_inputs()}
    for sentence in sentences:
        ids = np.array([tokenizer.encode(sentence).ids], np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        yield model.run(None, {k: v for k, v in feed.items() if k in names})[0][0]


def spearman(a: Array, b: Array) -> float:
    """Rank correlation; ties get their mean rank."""
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: Array) -> Array:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse])


def judge_encoder(folder: Path, sts: Path) -> tuple[Judge, dict[str, float]]:
    """A function from a file to its figures on STS-B, and those of the original."""
    tokenizer = load_tokenizer(folder)
    first, second, scores = read_sts(sts)
    sentences = first + second
    reference = list(hidden_states(session(folder / "model.onnx"), tokenizer, sentences))
    flat = np.concatenate(reference).astype(np.float64)
    spread = float(((flat - flat.mean(axis=0)) ** 2).sum())

    def correlation(states: list[Array]) -> float:
        vectors = np.stack([s.mean(axis=0) for s in states]).astype(np.float64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return spearman((vectors[: len(scores)] * vectors[len(scores) :]).sum(axis=1), scores)

    def judge(path: Path) -> dict[str, float]:
        states = list(hidden_states(session(path), tokenizer, sentences))
        error = sum(float(((s.astype(np.float64) - r) ** 2).sum()) for s, r in zip(states, reference, strict=True))
        return {"relative_mse": round(error / spread, 5), "spearman": round(correlation(states), 5)}

    return judge, {"relative_mse": 0.0, "spearman": round(correlation(reference), 5), "tokens": len(flat)}


# Decoders ------------------------------------------------------------------------------------------------------------


def text_windows(folder: Path, text: Path, count: int) -> list[Array]:
    """The first full windows of the text, encoded as a whole: [1, WINDOW] each."""
    tokenizer = load_tokenizer(folder)
    tokenizer.no_truncation()
    ids = np.array(tokenizer.encode(text.read_text(encoding="utf-8"), add_special_tokens=False).ids, np.int64)
    whole = len(ids) // WINDOW
    return list(ids[: whole * WINDOW].reshape(whole, 1, WINDOW)[:count])


def decoder_feed(model: ort.InferenceSession, ids: Array, past: int = 0) -> dict[str, Array]:
    """Everything a decoder with a KV cache wants besides ids."""
    length = ids.shape[1]
    feed: dict[str, Array] = {}
    for spec in model.get_inputs():
        if spec.name == "input_ids":
            feed[spec.name] = ids
        elif spec.name == "attention_mask":
            feed[spec.name] = np.ones((1, past + length), np.int64)
        elif spec.name == "position_ids":
            feed[spec.name] = np.arange(past, past + length)[None]
        else:
            heads, width = spec.shape[1], spec.shape[3]
            feed[spec.name] = np.zeros((1, heads, past, width), np.float32)
    return feed


def log_softmax(logits: Array) -> Array:
    """Log probabilities along the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def judge_decoder(folder: Path, text: Path, count: int) -> tuple[Judge, dict[str, float]]:
    """A function from a file to its figures on a text, and those of the original."""
    windows = text_windows(folder, text, count)
    original = session(folder / "model.onnx")

    def figures(model: ort.InferenceSession) -> dict[str, float]:
        divergence, loss, same = [], [], []
        for ids in windows:
            feed = decoder_feed(original, ids)
            p, q = (log_softmax(m.run(["logits"], feed)[0][0]) for m in (original, model))
            divergence.append((np.exp(p) * (p - q)).sum(axis=-1).mean())
            loss.append(-np.take_along_axis(q[:-1], ids[0, 1:, None], axis=-1).mean())
            same.append((p.argmax(axis=-1) == q.argmax(axis=-1)).mean())
        return {
            "mean_kl": round(float(np.mean(divergence)), 6),
            "perplexity": round(float(np.exp(np.mean(loss))), 4),
            "top1": round(float(np.mean(same)), 5),
        }

    return (lambda path: figures(session(path))), {**figures(original), "tokens": len(windows) * WINDOW}


# Both ----------------------------------------------------------------------------------------------------------------


def one_token(model: ort.InferenceSession, *, decoder: bool) -> dict[str, Array]:
    """The feed whose time is compared: one token, after 64 cached ones for a decoder."""
    ids = np.array([[5]], np.int64)
    if decoder:
        return decoder_feed(model, ids, past=64)
    names = {i.name for i in model.get_inputs()}
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return {k: v for k, v in feed.items() if k in names}


def main() -> None:
    """Quantise with every tool, judge every file, and time them against the original in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("encoder", "decoder"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sts", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--windows", type=int, default=200)
    parser.add_argument("--blocks", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    decoder = arguments.kind == "decoder"
    if decoder:
        judge, original = judge_decoder(arguments.folder, arguments.text, arguments.windows)
    else:
        judge, original = judge_encoder(arguments.folder, arguments.sts)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        write_plain(arguments.folder / "model.onnx", model)
        size = model.stat().st_size
        for block_size in arguments.blocks:
            paths: dict[str, Path] = {}
            for tool in TOOLS:
                out = Path(folder) / f"{tool}-{block_size}.onnx".replace(" ", "-").replace(",", "")
                row = {"tool": tool, "block_size": block_size, **measure(tool, model, out, block_size)}
                if row["exit_code"] == 0:
                    paths[tool] = out
                    row |= {"file_bytes": out.stat().st_size, **judge(out)}
                rows.append(row)
                print(row, flush=True)
            sessions = {"original": session(model), **{t: session(p) for t, p in paths.items()}}
            ratios = interleaved(sessions, one_token(sessions["original"], decoder=decoder), "original")
            for row in rows:
                if row["block_size"] == block_size and row["tool"] in ratios:
                    row["one_token_speedup"] = ratios[row["tool"]]
    write(arguments.out, {"model": arguments.folder.name, "original_bytes": size, "original": original, "rows": rows})


if __name__ == "__main__":
    main()
