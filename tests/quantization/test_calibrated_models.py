"""Calibration of models with real weights: what it gains on data that it has not seen."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxfq
from onnxfq.arrays import Array
from onnxfq.feeds import load_feeds
from onnxfq.graph import Graph
from onnxfq.session import Session

ROOT = Path(__file__).resolve().parents[2]
OPT = ROOT / "models" / "opt-4m"
DATA = Path(os.environ.get("ONNXFQ_DATA", ROOT.parent / "shared" / "data"))
SENTENCES = [
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness.",
    "He looked at her for a long while without a word, and then he took his hat and went out into the rain.",
    "The village stood on a hill above the river, and from its church one saw the sea when the weather was clear.",
    "She had been waiting for the letter since the morning, and when it came at last she did not dare to open it.",
]


def write_lines(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def log_softmax(logits: Array) -> Array:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def divergence(output: Path, texts: Path) -> float:
    """Mean KL of the original's next-token distribution to the output's, run by ONNX Runtime."""
    source = OPT / "model.onnx"
    feeds = load_feeds(texts, Graph.load(source).signature, tokenizer=OPT, samples=100, seq_len=256)
    sessions = [Session(path) for path in (source, output)]
    found = []
    for feed in feeds:
        p, q = (log_softmax(session.run(feed, ["logits"])["logits"][0]) for session in sessions)
        found.append((np.exp(p) * (p - q)).sum(axis=-1))
    return float(np.concatenate(found).mean())


def quantized(folder: Path, algorithm: str, **changes: Any) -> Path:
    out = folder / f"{algorithm.split(':')[0]}.onnx"
    settings = {"provider": "cpu", "symmetric": False, "validate": False, **changes}
    onnxfq.quantize(OPT / "model.onnx", out, algorithm=algorithm, **settings)
    return out


@pytest.mark.parametrize("block_size", [32, pytest.param(128, marks=pytest.mark.slow)])
def test_a_model_calibrated_on_its_own_text_is_better_on_any_text(tmp_path: Path, block_size: int) -> None:
    texts = write_lines(tmp_path / "texts.jsonl", SENTENCES)
    own = {"calib": "self", "samples": 12, "seq_len": 64, "block_size": block_size}
    hqq = divergence(quantized(tmp_path, "hqq", block_size=block_size), texts)
    awq = divergence(quantized(tmp_path, "awq", **own), texts)
    gptq = divergence(quantized(tmp_path, "auto", **own), texts)
    assert gptq < 0.6 * hqq
    assert gptq < awq < hqq


@pytest.mark.slow
@pytest.mark.parametrize("block_size", [32, 128])
def test_opt_calibrated_on_wikitext_is_four_times_closer_than_rounding(tmp_path: Path, block_size: int) -> None:
    if not (DATA / "wikitext2-valid.txt").exists():
        pytest.skip("needs WikiText-2 in ONNXFQ_DATA")
    real = {"calib": DATA / "wikitext2-valid.txt", "tokenizer": OPT, "seq_len": 256, "block_size": block_size}
    texts = tmp_path / "test.txt"
    texts.write_text((DATA / "wikitext2-test.txt").read_text(encoding="utf-8")[:40_000], encoding="utf-8")
    rtn = divergence(quantized(tmp_path, "rtn", block_size=block_size), texts)
    assert divergence(quantized(tmp_path, "gptq", **real), texts) < rtn / 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "changes"),
    [
        (0.017, {}),
        (0.027, {"block_size": 128}),
        (0.25, {"bits": 2}),
        (0.035, {"calib": "self", "samples": 128, "seq_len": 64}),
    ],
    ids=["block 32", "block 128", "2 bits", "no data"],
)
def test_minilm_calibrated_is_within_its_limits(
    minilm: Path, tmp_path: Path, limit: float, changes: dict[str, Any]
) -> None:
    if not (DATA / "stsb-train.csv").exists():
        pytest.skip("needs STS-B in ONNXFQ_DATA")
    from benchmarks.inputs import read_sts
    from benchmarks.quality import judge_encoder

    first, second, _ = read_sts(DATA / "stsb-train.csv")
    chosen = range(0, len(first), len(first) // 192)[:192]
    texts = write_lines(tmp_path / "texts.jsonl", [f"{first[i]} {second[i]}" for i in chosen])
    settings = {"calib": texts, "samples": 192, "provider": "cpu", "symmetric": False, "validate": False, **changes}
    out = tmp_path / "out.onnx"
    onnxfq.quantize(minilm / "model.onnx", out, **settings)
    judge, _ = judge_encoder(minilm, DATA / "stsb-test.csv")
    assert judge(out)["relative_mse"] <= limit
