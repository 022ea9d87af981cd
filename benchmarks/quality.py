"""Accuracy, time, memory and decode speed of every tool's 4-bit file, side by side.

    python -m benchmarks.quality encoder ENCODER_DIR --sts stsb-test.csv --calib CALIB --out minilm.json
    python -m benchmarks.quality decoder models/opt-4m --text wikitext2-test.txt --lambada lambada-test.jsonl \
        --calib CALIB --out opt-4m.json

ENCODER_DIR and the decoder's folder hold model.onnx and tokenizer.json; CALIB is what `benchmarks.calibration` wrote.
The tools that need environments of their own are described in `benchmarks.rivals`; without these, and without CALIB,
their rows say so. The judge is ONNX Runtime on the written files.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

from benchmarks.inputs import (
    WINDOW,
    Array,
    decoder_feed,
    encoder_feed,
    last_words,
    load_tokenizer,
    read_sts,
    session,
    text_windows,
)
from benchmarks.machine import write
from benchmarks.plain import write_plain
from benchmarks.speed import interleaved
from benchmarks.tools import TOOLS, measure

Judge = Callable[[Path], dict[str, float]]


# Encoders ------------------------------------------------------------------------------------------------------------


def hidden_states(model: ort.InferenceSession, tokenizer: Tokenizer, sentences: list[str]) -> Iterator[Array]:
    """The final hidden state of each sentence, encoded alone: [tokens, features]."""
    for sentence in sentences:
        yield model.run(None, encoder_feed(model, tokenizer.encode(sentence).ids))[0][0]


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

    def similarities(states: list[Array]) -> Array:
        vectors = np.stack([s.mean(axis=0) for s in states]).astype(np.float64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray((vectors[: len(scores)] * vectors[len(scores) :]).sum(axis=1))

    before = similarities(reference)

    def judge(path: Path) -> dict[str, float]:
        states = list(hidden_states(session(path), tokenizer, sentences))
        error = sum(float(((s.astype(np.float64) - r) ** 2).sum()) for s, r in zip(states, reference, strict=True))
        return {
            "relative_mse": round(error / spread, 5),
            "cosine": round(_mean_cosine(np.concatenate(states), flat), 5),
            **spearman_change(before, similarities(states), scores),
        }

    return judge, {"relative_mse": 0.0, "spearman": round(spearman(before, scores), 5), "tokens": len(flat)}


def spearman_change(before: Array, after: Array, scores: Array, draws: int = 200) -> dict[str, float]:
    """The rank correlation, its change from the original's, and the standard error of that (bootstrap over pairs)."""
    random = np.random.default_rng(0)
    changes = []
    for _ in range(draws):
        drawn = random.integers(0, len(scores), len(scores))
        changes.append(spearman(after[drawn], scores[drawn]) - spearman(before[drawn], scores[drawn]))
    value = spearman(after, scores)
    return {
        "spearman": round(value, 5),
        "spearman_change": round(value - spearman(before, scores), 5),
        "spearman_change_error": round(float(np.std(changes, ddof=1)), 5),
    }


def _mean_cosine(one: Array, other: Array) -> float:
    """Of rows, one by one."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1) / lengths).mean())


# Decoders ------------------------------------------------------------------------------------------------------------


def log_softmax(logits: Array) -> Array:
    """Log probabilities along the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def judge_decoder(
    folder: Path, text: Path, count: int, lambada: Path | None = None, passages: int = 500
) -> tuple[Judge, dict[str, float]]:
    """A function from a file to its figures on a text, and those of the original."""
    windows = text_windows(folder, text, count)
    words = [] if lambada is None else last_words(folder, lambada, passages)
    original = session(folder / "model.onnx")

    def figures(model: ort.InferenceSession) -> dict[str, float]:
        divergence, loss, same = [], [], []
        for ids in windows:
            feed = decoder_feed(original, ids)
            p, q = (log_softmax(m.run(["logits"], feed)[0][0]) for m in (original, model))
            divergence.append((np.exp(p) * (p - q)).sum(axis=-1))
            loss.append([-np.take_along_axis(m[:-1], ids[0, 1:, None], axis=-1).mean() for m in (p, q)])
            same.append((p.argmax(axis=-1) == q.argmax(axis=-1)).mean())
        result = {
            "mean_kl": round(float(np.mean(divergence)), 6),
            "kl_99.9": round(float(np.quantile(np.concatenate(divergence), 0.999)), 5),
            **perplexities(np.array(loss)),
            "top1": round(float(np.mean(same)), 5),
        }
        return result | (guess_last_words(model, words) if words else {})

    return (lambda path: figures(session(path))), {**figures(original), "tokens": len(windows) * WINDOW}


def perplexities(loss: Array) -> dict[str, float]:
    """The perplexity, how much it is above the original's, and the standard error of that difference.

    Args:
        loss: [windows, 2], the mean loss of each window: the original's, the file's. They are paired: what makes a
            window hard for both does not count as error.
    """
    before, after = np.exp(loss.mean(axis=0))
    slopes = (loss - loss.mean(axis=0)) @ np.array([-before, after])  # each window's part in the difference
    return {
        "perplexity": round(float(after), 4),
        "perplexity_rise": round(float(after - before), 4),
        "perplexity_rise_error": round(float(slopes.std(ddof=1) / np.sqrt(len(slopes))), 4),
    }


def guess_last_words(model: ort.InferenceSession, words: list[tuple[Array, int]]) -> dict[str, float]:
    """How often greedy decoding writes all tokens of the last word, and the word's mean loss."""
    hits, loss = [], []
    for ids, length in words:
        target = ids[0, -length:]
        q = log_softmax(model.run(["logits"], decoder_feed(model, ids))[0][0][-length - 1 : -1])
        hits.append((q.argmax(axis=-1) == target).all())
        loss.append(-np.take_along_axis(q, target[:, None], axis=-1).sum())
    return {"lambada": round(float(np.mean(hits)), 4), "lambada_loss": round(float(np.mean(loss)), 4)}


# Both ----------------------------------------------------------------------------------------------------------------


def one_token(model: ort.InferenceSession, *, decoder: bool) -> dict[str, Array]:
    """The feed whose time is compared: one token, after 64 cached ones for a decoder."""
    return decoder_feed(model, np.array([[5]], np.int64), past=64) if decoder else encoder_feed(model, [5])


def quantize(tool: str, model: Path, out: Path, block_size: int, calib: Path | None) -> dict[str, Any]:
    """A row with what the tool's process took, or why there is no file."""
    row: dict[str, Any] = {"tool": tool, "block_size": block_size}
    if TOOLS[tool].calibrates and calib is None:
        return {**row, "exit_code": None, "error": "no calibration inputs given"}
    return row | measure(tool, model, out, block_size, calib)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("encoder", "decoder"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sts", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--windows", type=int, default=200)
    parser.add_argument("--lambada", type=Path, help="passages, a JSON object with `text` a line")
    parser.add_argument("--passages", type=int, default=500)
    parser.add_argument("--calib", type=Path, help="folder of inputs for the tools that calibrate")
    parser.add_argument("--blocks", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=TOOLS, metavar="TOOL")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--add", action="store_true", help="keep the rows in OUT of other tools and block sizes")
    return parser.parse_args()


def joined(out: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a file with new ones added, in the order of tools and block sizes."""
    new = {(row["block_size"], row["tool"]): row for row in rows}
    old = json.loads(out.read_text(encoding="utf-8"))["rows"] if out.exists() else []
    both = {(row["block_size"], row["tool"]): row for row in old} | new
    order = list(TOOLS)
    return [both[key] for key in sorted(both, key=lambda key: (key[0], order.index(key[1])))]


def main() -> None:
    """Quantize with every tool, judge every file, and time them against the original in turn."""
    arguments = parse()
    decoder = arguments.kind == "decoder"
    if decoder:
        judge, original = judge_decoder(
            arguments.folder, arguments.text, arguments.windows, arguments.lambada, arguments.passages
        )
    else:
        judge, original = judge_encoder(arguments.folder, arguments.sts)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        write_plain(arguments.folder / "model.onnx", model)
        size = model.stat().st_size
        for block_size in arguments.blocks:
            paths: dict[str, Path] = {}
            for tool in arguments.tools:
                out = Path(folder) / f"{tool}-{block_size}.onnx".replace(" ", "-").replace(",", "")
                row = quantize(tool, model, out, block_size, arguments.calib)
                if row["exit_code"] == 0:
                    try:
                        row |= {"file_bytes": out.stat().st_size, **judge(out)}
                        paths[tool] = out
                    except Exception as error:  # noqa: BLE001 (some tools write files that do not load)
                        row["error"] = f"the file does not run: {error}"[:500]
                rows.append(row)
                print(row, flush=True)
            sessions = {"original": session(model), **{t: session(p) for t, p in paths.items()}}
            ratios = interleaved(sessions, one_token(sessions["original"], decoder=decoder), "original")
            for row in rows:
                if row["block_size"] == block_size and row["tool"] in ratios:
                    row["one_token_speedup"] = ratios[row["tool"]]
    samples = 0 if arguments.calib is None else len(list(arguments.calib.glob("*.npz")))
    result = {"model": arguments.folder.name, "calibration_samples": samples, "original_bytes": size}
    rows = joined(arguments.out, rows) if arguments.add else rows
    write(arguments.out, {**result, "original": original, "rows": rows})


if __name__ == "__main__":
    main()
