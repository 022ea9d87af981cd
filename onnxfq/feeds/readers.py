"""Inputs from files, each kind by its own reader, and from Python."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from onnxfq.errors import DataError, UsageError
from onnxfq.feeds.check import check
from onnxfq.feeds.configurations import UNLIMITED
from onnxfq.feeds.convert import convert
from onnxfq.feeds.feed import Feed, Feeds
from onnxfq.feeds.folders import read_folder
from onnxfq.feeds.generate import fill
from onnxfq.feeds.given import read_given
from onnxfq.feeds.jsonl import read_jsonl
from onnxfq.feeds.npz import read_npz
from onnxfq.feeds.sample_limits import up_to
from onnxfq.feeds.text import Text
from onnxfq.input_files import listed, refuse_missing
from onnxfq.signature import Signature

Sample = tuple[Feed, str]  # with the words that say where it stands


def load_feeds(
    path: Path, signature: Signature, *, tokenizer: Path | None, samples: int, seq_len: int, tokens: int | None = None
) -> Feeds:
    """Read inputs for a model; what follows from them (masks, positions, an empty cache) is filled in.

    Args:
        path: one of `input_files.FEED_FILES`, or a folder of .npz or .npy files. Lines of blank text are passed over;
            running text is encoded as a whole and cut into consecutive windows of `seq_len` tokens.
        signature: the model's inputs.
        tokenizer: the folder with tokenizer.json, or that file; only text needs it.
        samples: how many to read at most, the first ones.
        seq_len: the longest sample of text, in tokens; the model's own limit holds besides.
        tokens: enough in all, after which no further sample is read; None for any number.

    Raises:
        DataError: the file cannot be read, or does not fit the model.
        UsageError: text without a tokenizer, or a number below 1.
    """
    for name, number in (("samples", samples), ("seq_len", seq_len)):
        if number < 1:
            raise UsageError(f"`{name}` must be 1 or more (got {number}).")
    text = Text(tokenizer, signature, seq_len)
    found = itertools.islice(_read(path, signature, text, samples), samples)
    feeds = tuple(up_to((complete(feed, signature, where) for feed, where in found), signature, tokens))
    if not feeds:
        _refuse_empty(text, str(path))
        raise DataError(f"There are no samples in {path}. Give a file that holds at least one.")
    _refuse_mixed(feeds, signature, path.name)
    return Feeds(feeds, f"given: {path.resolve().name}", notes=text.notes(path.name))


def given_feeds(
    given: object,
    signature: Signature,
    *,
    samples: int,
    what: str = "calib",
    tokenizer: Path | None = None,
    seq_len: int = UNLIMITED,
    tokens: int | None = None,
) -> Feeds:
    """Take inputs from Python; what follows from them (masks, positions, an empty cache) is filled in.

    Args:
        given: samples, arrays or columns, as `given.read_given` takes them.
        signature: the model's inputs.
        samples: how many to take at most, the first ones.
        what: the setting, for messages.
        tokenizer: the folder with tokenizer.json, or that file; only text needs it.
        seq_len: the longest sample of text, in tokens; the model's own limit holds besides.
        tokens: enough in all, after which no further sample is taken; None for any number.

    Raises:
        DataError: there are none, or they do not fit the model.
        UsageError: text without a tokenizer.
    """
    text = Text(tokenizer, signature, seq_len)
    read = itertools.islice(read_given(given, signature, text), samples)
    feeds = list(up_to((complete(feed, signature, where) for feed, where in read), signature, tokens))
    if not feeds:
        _refuse_empty(text, f"`{what}`")
        raise DataError(
            f"There are no samples in `{what}`. Give at least one, and a list where they are read more than once."
        )
    _refuse_mixed(feeds, signature, "those given")
    return Feeds(tuple(feeds), "given: from Python", notes=text.notes(f"`{what}`"))


def _refuse_empty(text: Text, where: str) -> None:
    """Say that texts are empty, where that is why there are no samples.

    Raises:
        DataError: it is.
    """
    why = text.tally.all_empty()
    if why:
        raise DataError(f"There are no samples in {where}: {why}. Give texts that hold words.")


def _refuse_mixed(feeds: Sequence[Feed], signature: Signature, where: str) -> None:
    """An input that has a value of its own is fed in all samples or in none: what depends on it is one or the other.

    Raises:
        DataError: it is given in some.
    """
    for spec in signature.defaults:
        given = [number for number, feed in enumerate(feeds, start=1) if spec.name in feed]
        if given and len(given) < len(feeds):
            raise DataError(
                f"{spec.name}, which has a value of its own, is given in some samples of {where} and not in others "
                f"(got it in {len(given)} of {len(feeds)}, first in sample {given[0]}). Give it in all or in none."
            )


def complete(feed: Feed, signature: Signature, where: str) -> Feed:
    """Convert a feed to the types of a model's inputs, check it, and add the inputs that follow from it.

    Raises:
        DataError: it does not fit, or lacks inputs that do not follow from it.
    """
    converted = convert(feed, signature)
    check(converted, signature, where)
    return fill(converted, signature)


def _read(path: Path, signature: Signature, text: Text, samples: int) -> Iterator[Sample]:
    """Samples, each with the words that say where it stands."""
    if path.is_dir():
        return read_folder(path, signature)
    refuse_missing(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} is of no known kind (got {path.suffix or 'no suffix'!r}). Use {listed(READERS)}.")
    return reader(path, signature, text, samples)


def _read_arrays(path: Path, signature: Signature, text: Text, samples: int) -> Iterator[Sample]:
    return read_npz(path, signature)


def _read_json_lines(path: Path, signature: Signature, text: Text, samples: int) -> Iterator[Sample]:
    return read_jsonl(read_lines(path), path.name, signature, text)


def _read_windows(path: Path, signature: Signature, text: Text, samples: int) -> Iterator[Sample]:
    windows = text.windows("".join(read_lines(path)), samples)
    return ((feed, f"window {index} of {path.name}") for index, feed in enumerate(windows, start=1))


def read_lines(path: Path) -> Iterator[str]:
    """Line by line: of a large file only the beginning may be wanted."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from file
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}. Give a readable text file.") from error


# A reader for each of `FEED_FILES`; of text, it is told how many samples are wanted at most.
READERS: dict[str, Callable[[Path, Signature, Text, int], Iterator[Sample]]] = {
    ".npz": _read_arrays,
    ".npy": _read_arrays,
    ".jsonl": _read_json_lines,
    ".txt": _read_windows,
}
