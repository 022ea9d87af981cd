"""What goes into the models that are compared: tokenizers, texts, and a feed for every input."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from tokenizers import Tokenizer

Array = npt.NDArray[Any]
WINDOW = 256


def session(path: Path) -> ort.InferenceSession:
    """A CPU session whose threads do not go on spinning, after a run, into the next session's time."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def load_tokenizer(folder: Path) -> Tokenizer:
    """The folder's tokenizer, without the padding and cutting it was saved with."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(128)
    return tokenizer


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


def text_windows(folder: Path, text: Path, count: int, window: int = WINDOW) -> list[Array]:
    """The first full windows of the text, encoded as a whole: [1, window] each."""
    tokenizer = load_tokenizer(folder)
    tokenizer.no_truncation()
    ids = np.array(tokenizer.encode(text.read_text(encoding="utf-8"), add_special_tokens=False).ids, np.int64)
    whole = len(ids) // window
    return list(ids[: whole * window].reshape(whole, 1, window)[:count])


def last_words(folder: Path, passages: Path, count: int) -> list[tuple[Array, int]]:
    """The first passages of a file with a `text` a line.

    Returns:
        The last ids of each, [1, tokens], and how many of these the last word takes.
    """
    tokenizer = load_tokenizer(folder)
    tokenizer.no_truncation()
    found = []
    with passages.open(encoding="utf-8") as file:
        for line, _ in zip(file, range(count), strict=False):
            context, word = json.loads(line)["text"].rstrip().rsplit(" ", 1)
            ids, target = (tokenizer.encode(t, add_special_tokens=False).ids for t in (context, f" {word}"))
            found.append((np.array([(ids + target)[-WINDOW:]], np.int64), len(target)))
    return found


def encoder_feed(model: ort.InferenceSession, ids: Sequence[int]) -> dict[str, Array]:
    """Everything an encoder wants for one text."""
    row = np.array([ids], np.int64)
    feed = {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": np.zeros_like(row)}
    names = {i.name for i in model.get_inputs()}
    return {k: v for k, v in feed.items() if k in names}


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
