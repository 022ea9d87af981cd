"""Inputs from files: arrays in .npz, samples in .jsonl, running text in .txt."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from onnxfq.arrays import Array
from onnxfq.errors import DataError, UsageError
from onnxfq.feeds.check import check
from onnxfq.feeds.feed import Feed, Feeds
from onnxfq.feeds.generate import fill
from onnxfq.feeds.jsonl import read_jsonl
from onnxfq.feeds.npz import read_npz
from onnxfq.feeds.text import Text
from onnxfq.signature import Signature


def load_feeds(path: Path, signature: Signature, *, tokenizer: Path | None, samples: int, seq_len: int) -> Feeds:
    """Read inputs for a model; what follows from them (masks, positions, an empty cache) is filled in.

    Args:
        path: `.npz`: an array an input, the first axis counting samples; a folder of such files; `.jsonl`: a sample a
            line, an object with `text`, or `input_ids`, or the model's inputs by name (lines of blank text are passed
            over); `.txt`: encoded as a whole and cut into consecutive windows of `seq_len` tokens.
        signature: the model's inputs.
        tokenizer: the folder with tokenizer.json, or that file; only text needs it.
        samples: how many to read at most, the first ones.
        seq_len: the longest sample of text, in tokens; the model's own limit holds besides.

    Raises:
        DataError: the file cannot be read, or does not fit the model.
        UsageError: text without a tokenizer, or a number below 1.
    """
    for option, number in (("samples", samples), ("seq-len", seq_len)):
        if number < 1:
            raise UsageError(f"There must be at least one (got --{option} {number}). Use 1 or more.")
    text = Text(tokenizer, signature, seq_len)
    found = itertools.islice(_read(path, signature, text, samples), samples)
    feeds = tuple(complete(feed, signature, where) for feed, where in found)
    if not feeds:
        raise DataError(f"There are no samples in {path}. Give a file that holds at least one.")
    return Feeds(feeds, f"given: {path.resolve().name}")


def given_feeds(given: Iterable[Mapping[str, Array]], signature: Signature, *, samples: int) -> Feeds:
    """Take inputs from Python; what follows from them (masks, positions, an empty cache) is filled in.

    Args:
        given: an array by input name for each sample.
        signature: the model's inputs.
        samples: how many to take at most, the first ones.

    Raises:
        DataError: there are none, or they do not fit the model.
    """
    feeds = []
    for number, sample in enumerate(itertools.islice(given, samples), start=1):
        where = f"sample {number} of those given"
        if not isinstance(sample, Mapping):
            raise DataError(
                f"This is no dict of arrays (in {where}; got {type(sample).__name__}). Give a dict a sample."
            )
        feeds.append(complete({name: np.asarray(array) for name, array in sample.items()}, signature, where))
    if not feeds:
        raise DataError(
            "There are no samples in calib. Give at least one, and a list where they are read more than once."
        )
    return Feeds(tuple(feeds), "given: from Python")


def complete(feed: Feed, signature: Signature, where: str) -> Feed:
    """Check a feed against a model and add the inputs that follow from it.

    Raises:
        DataError: it does not fit, or lacks inputs that do not follow from it.
    """
    check(feed, signature, where)
    return fill(feed, signature)


def _read(path: Path, signature: Signature, text: Text, samples: int) -> Iterator[tuple[Feed, str]]:
    """Samples, each with the words that say where it stands."""
    if path.is_dir():
        return _read_folder(path, signature)
    if not path.exists():
        raise DataError(f"There is no file {path}. Give a .npz, .jsonl or .txt file, or a folder of .npz files.")
    match path.suffix.lower():
        case ".npz":
            return read_npz(path, signature)
        case ".jsonl":
            return read_jsonl(read_lines(path), path.name, signature, text)
        case ".txt":
            windows = text.windows("".join(read_lines(path)), samples)
            return ((feed, f"window {index} of {path.name}") for index, feed in enumerate(windows, start=1))
    raise DataError(f"{path} is of no known kind (got {path.suffix or 'no suffix'!r}). Use .npz, .jsonl or .txt.")


def _read_folder(path: Path, signature: Signature) -> Iterator[tuple[Feed, str]]:
    files = sorted(path.glob("*.npz"))
    if not files:
        raise DataError(f"There are no .npz files in the folder {path}. Give a folder that holds some.")
    return itertools.chain.from_iterable(read_npz(file, signature) for file in files)


def read_lines(path: Path) -> Iterator[str]:
    """Line by line: of a large file only the beginning may be wanted."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from file
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}. Give a readable text file.") from error
