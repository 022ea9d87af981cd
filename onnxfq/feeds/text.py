"""Text as token ids, by the model's own tokenizer."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxfq.errors import DataError, UsageError
from onnxfq.feeds.configurations import longest, read_setting
from onnxfq.feeds.feed import Feed
from onnxfq.feeds.generate import element_type
from onnxfq.feeds.names import stem, takes_token_ids
from onnxfq.feeds.text_tally import TextTally
from onnxfq.signature import Signature, TensorSpec

if TYPE_CHECKING:
    import tokenizers

_IDS = 1 << 31  # no vocabulary has so many
_SHOWN = 20  # characters of what is no id


class Text:
    """Turns text into feeds; the tokenizer is loaded when the first text comes.

    Args:
        tokenizer: the folder with tokenizer.json (and the configurations that know the longest input), or that file.
        signature: the model's inputs.
        seq_len: the longest sample, in tokens.

    Attributes:
        tally: counts what is not taken of texts.
    """

    def __init__(self, tokenizer: Path | None, signature: Signature, seq_len: int) -> None:
        self._path = tokenizer
        self._signature = signature
        self._seq_len = seq_len
        self.tally = TextTally()

    def encode(self, text: str) -> Feed | None:
        """One sample, with the tokenizer's special tokens, cut to the longest length; None for blank text."""
        if not text.strip():
            return None
        ids = self._cut(text).ids
        return self.feed(ids) if ids else None

    def encode_pair(self, first: str, second: str | None) -> Feed:
        """One text or two that belong together, with the special tokens and segments that the tokenizer gives them."""
        encoding = self._cut(first, second)
        return self.feed(encoding.ids, encoding.type_ids)

    def _cut(self, first: str, second: str | None = None) -> tokenizers.Encoding:
        """A text, or two that belong together, cut to the longest length."""
        self.tokenizer.enable_truncation(self.length)
        with _tokenizing(f"The tokenizer at {self._path} cannot encode a text"):
            encoding = self.tokenizer.encode(first, second)
            whole = len(encoding.ids)
            if encoding.overflowing:
                self.tokenizer.no_truncation()
                whole = len(self.tokenizer.encode(first, second).ids)
        if whole:
            self.tally.add(whole, self.length)
        return encoding

    def notes(self, where: str) -> tuple[str, ...]:
        """What the user should know of the texts that were read."""
        return tuple(self.tally.notes(self.length, self._limit, where)) if self.tally.tells else ()

    def ids(self, text: str) -> list[int]:
        """The ids of a whole text with the tokenizer's special tokens, however long."""
        self.tokenizer.no_truncation()
        return self._ids(text)

    def last_word(self, text: str) -> tuple[list[int], int]:
        """The ids of a text as far as its last word, and how many of them this word takes; 0 where it stands alone.

        A token that holds the beginning of the word and something before it, such as a space, is part of the word.
        """
        self.tokenizer.no_truncation()
        text = text.rstrip()
        context = len(text) - len(text.split()[-1]) if text else 0
        with _tokenizing(f"The tokenizer at {self._path} cannot encode a text"):
            encoding = self.tokenizer.encode(text)
        if not text[:context].strip():
            return list(encoding.ids), 0
        word = [index for index, (_, end) in enumerate(encoding.offsets) if end > context]
        return (list(encoding.ids[: word[-1] + 1]), word[-1] - word[0] + 1) if word else ([], 0)

    def windows(self, text: str, samples: int) -> Iterator[Feed]:
        """The first consecutive windows of a text encoded as a whole; a text shorter than one window is one.

        Raises:
            DataError: the text has no tokens.
        """
        ids = self.ids(text) if text.strip() else []
        full = len(ids) // self.length
        if 0 < full <= samples:
            self.tally.tokens, self.tally.rest = len(ids), len(ids) % self.length
        for start in range(0, min(samples, max(full, 1)) * self.length, self.length):
            if ids:
                yield self.feed(ids[start : start + self.length])

    def from_ids(self, value: object, where: str) -> Feed:
        """One sample from ids that are given, cut to the longest length.

        Raises:
            DataError: these are not ids.
        """
        flat = value[0] if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list) else value
        if not isinstance(flat, list) or not all(map(_is_id, flat)):
            raise DataError(
                f'"input_ids" must be a list of token ids (in {where}{_odd_one(flat)}), those of one sample. Ids must '
                "be whole numbers from 0 up."
            )
        self.tally.add(len(flat), self.length)
        return self.feed(flat)

    def _ids(self, text: str) -> list[int]:
        """The ids of a text.

        Raises:
            DataError: the tokenizer does not work.
        """
        with _tokenizing(f"The tokenizer at {self._path} cannot encode a text"):
            return list(self.tokenizer.encode(text).ids)

    def feed(self, ids: Sequence[int], segments: Sequence[int] = ()) -> Feed:
        """The ids for every input that takes them; where the model fixes the length, filled up and masked.

        Args:
            ids: of one sample; cut to the longest length.
            segments: which of two texts each token belongs to; without, what fills up a feed makes it the first.
        """
        ids, segments = list(ids[: self.length]), list(segments[: self.length])
        padding = (self._fixed_length or len(ids)) - len(ids)
        feed: Feed = {}
        for spec in self._inputs:
            row = np.array([*ids, *[self._padding_id] * padding] if padding else ids, np.int64)
            feed[spec.name] = (row if spec.shape and len(spec.shape) == 1 else row[np.newaxis]).astype(
                element_type(spec)
            )
        for spec in self._signature.inputs:
            if padding and stem(spec.name) == "attention_mask":
                feed[spec.name] = np.array([[1] * len(ids) + [0] * padding], element_type(spec))
            if segments and stem(spec.name) == "token_type_ids":
                feed[spec.name] = np.array([segments + [0] * padding], element_type(spec))
        return feed

    @functools.cached_property
    def _inputs(self) -> list[TensorSpec]:
        """The inputs that take the ids: `input_ids` (and `decoder_input_ids` beside it), or the only one there is."""
        takers = [spec for spec in self._signature.inputs if takes_token_ids(spec)]
        named = [spec for spec in takers if stem(spec.name) in {"input_ids", "decoder_input_ids"}]
        if not named and len(takers) != 1:
            listed = ", ".join(spec.name for spec in self._signature.inputs)
            raise DataError(
                f"The model has no input for text (got inputs {listed}; wanted input_ids, or a single input of token "
                "ids). Give its inputs by name in a .npz file."
            )
        return named or takers

    @functools.cached_property
    def _fixed_length(self) -> int | None:
        """The number of tokens that the model's shape fixes."""
        shape = self._inputs[0].shape
        return shape[-1] if shape and isinstance(shape[-1], int) else None

    @functools.cached_property
    def length(self) -> int:
        """The longest sample: what was asked for, within what the model takes."""
        return self._seq_len if self._limit is None else min(self._seq_len, self._limit)

    @functools.cached_property
    def _limit(self) -> int | None:
        """Tokens that the model takes at most; None where nothing is known of that."""
        limits = (longest(self._path), self._fixed_length)
        return min((limit for limit in limits if limit is not None), default=None)

    @functools.cached_property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer; whether it cuts texts is set anew before each use."""
        return load_tokenizer(self._path)

    @functools.cached_property
    def _padding_id(self) -> int:
        """Masked anyway, but it must be in the vocabulary: 0 where the tokenizer names none."""
        token = read_setting(self._path, "tokenizer_config.json", "pad_token") if self._path else None
        token = token.get("content") if isinstance(token, dict) else token
        return (self.tokenizer.token_to_id(token) if isinstance(token, str) else None) or 0


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value < _IDS


def _odd_one(values: object) -> str:
    """Which of some values is no id, and where; "" where they are no list."""
    odd = enumerate(values) if isinstance(values, list) else ()
    return next((f"; got {json.dumps(value)[:_SHOWN]} at index {i}" for i, value in odd if not _is_id(value)), "")


def load_tokenizer(path: Path | None) -> tokenizers.Tokenizer:
    """A tokenizer as the model's authors left it, but for padding and truncation, which are switched off.

    Raises:
        UsageError: there is no tokenizer, or no package to read it.
        DataError: the file cannot be read as one.
    """
    if path is None:
        raise UsageError("Text needs the model's tokenizer. Name its folder with `tokenizer=DIR`.")
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UsageError("Text needs the package tokenizers. Install it with `pip install tokenizers`.") from error
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"There is no {file}. Name the folder of the model's tokenizer.json with `tokenizer=DIR`.")
    with _tokenizing(f"{file} cannot be read as a tokenizer"):
        tokenizer = Tokenizer.from_file(str(file))
        tokenizer.no_padding()
        tokenizer.no_truncation()
    return tokenizer


@contextmanager
def _tokenizing(what: str) -> Iterator[None]:
    """Translate what goes wrong in a tokenizer: bare Exceptions, and panics, which Python does not count among them."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise DataError(f"{what}: {error}. Give the model's own tokenizer.json, and text in UTF-8.") from error
