"""Encoder–decoder models in optimum's layout of files, decoding greedily."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxfq.arrays import Array
from onnxfq.errors import ModelError
from onnxfq.feeds import Feed, Text, complete, read_setting, role, slot, stem, with_configured_sizes
from onnxfq.graph import Graph
from onnxfq.model_files import DECODER, ENCODER, MERGED
from onnxfq.providers import ProviderName
from onnxfq.session import Session
from onnxfq.signature import Signature

WITH_PAST = "decoder_with_past_model.onnx"

LONGEST = 128  # new tokens, where the model's configuration names no limit
_CONFIGURATIONS = ("generation_config.json", "config.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """What a model's configuration says about the tokens it writes.

    Attributes:
        start: the token that stands before the first.
        ends: tokens that end a text.
        first: the first token to write, where it is given.
        banned: tokens never to write.
        longest: new tokens at most.
    """

    start: int
    ends: frozenset[int]
    first: int | None = None
    banned: tuple[int, ...] = ()
    longest: int = LONGEST

    @classmethod
    def read(cls, folder: Path) -> GenerationConfig:
        """From the configurations in a model's folder.

        Raises:
            ModelError: they do not say which token starts or ends a text.
        """
        start, end = (_setting(folder, key) for key in ("decoder_start_token_id", "eos_token_id"))
        ends = [token for token in (end if isinstance(end, list) else [end]) if isinstance(token, int)]
        if not isinstance(start, int) or not ends:
            raise ModelError(
                f"The configuration in '{folder}' does not say how a text begins and ends (got decoder_start_token_id "
                f"{start}, eos_token_id {end}). Copy config.json and generation_config.json there from the original."
            )
        first, longest = (_setting(folder, key) for key in ("forced_bos_token_id", "max_length"))
        words = _setting(folder, "bad_words_ids") or []
        alone = [word[0] for word in words if len(word) == 1] if isinstance(words, list) else []
        suppressed = _setting(folder, "suppress_tokens") or []
        return cls(
            start=start,
            ends=frozenset(ends),
            first=first if isinstance(first, int) else None,
            banned=(*alone, *(suppressed if isinstance(suppressed, list) else ())),
            longest=longest - 1 if isinstance(longest, int) and longest > 1 else LONGEST,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _OpenedFile:
    """One file of the model."""

    session: Session
    signature: Signature

    @classmethod
    def load(cls, path: Path, provider: ProviderName, threads: int | None) -> _OpenedFile:
        signature = with_configured_sizes(Graph.load(path).signature, path)
        return cls(Session(path, provider=provider, threads=threads), signature)

    def run(self, feed: Feed, where: str) -> dict[str, Array]:
        known = {spec.name for spec in self.signature.inputs}
        return self.session.run(complete({n: a for n, a in feed.items() if n in known}, self.signature, where))

    def cache(self, found: Mapping[str, Array]) -> Feed:
        """The inputs of keys and values that some outputs continue."""
        slots = {slot(name): array for name, array in found.items()}
        caches = [spec.name for spec in self.signature.inputs if role(spec) == "cache"]
        return {name: slots[slot(name)] for name in caches if slot(name) in slots}


class EncoderDecoder:
    """An encoder–decoder that turns a text into another.

    Decoding is greedy whatever the configuration says of beams and sampling: only the tokens that start, end, must
    come first or must not come at all are taken from it.

    Args:
        folder: the files, in optimum's layout: an encoder, and a decoder that is merged, comes in two (with and
            without cached keys and values), or has no cache.
        tokenizer: the folder with tokenizer.json, or that file.
        seq_len: the longest text to read, in tokens.
        provider: where it runs.
        threads: threads inside an operator; None leaves the choice to ONNX Runtime.

    Raises:
        ModelError: a file cannot be loaded, or the folder has no configuration.
    """

    def __init__(
        self, folder: Path, tokenizer: Path, *, seq_len: int, provider: ProviderName, threads: int | None = None
    ) -> None:
        self.name = str(folder)
        self.rules = GenerationConfig.read(folder)
        self.encoder = _OpenedFile.load(folder / ENCODER, provider, threads)
        merged = (folder / MERGED).is_file()
        self.decoder = _OpenedFile.load(folder / (MERGED if merged else DECODER), provider, threads)
        self.next: _OpenedFile | None = None
        if merged:
            self.next = self.decoder
        elif (folder / WITH_PAST).is_file():
            self.next = _OpenedFile.load(folder / WITH_PAST, provider, threads)
        self.text = Text(tokenizer, self.encoder.signature, seq_len)

    def write(self, source: str, where: str) -> str:
        """The text that the model makes of another.

        Raises:
            DataError: the text does not fit the model.
            ModelError: the model does not run, or its scores are no numbers.
        """
        written = self.tokens(source, where)
        return str(self.text.tokenizer.decode(written, skip_special_tokens=True))

    def tokens(self, source: str, where: str) -> list[int]:
        """The ids that the model writes, as far as the one that ends the text."""
        feed = complete(self.text.encode_pair(source, None), self.encoder.signature, where)
        found = self.encoder.run(feed, where)
        state = next((a for name, a in found.items() if stem(name) == "last_hidden_state"), next(iter(found.values())))
        mask = next((array for name, array in feed.items() if stem(name) == "attention_mask"), None)
        read: Feed = {"encoder_hidden_states": state}
        if mask is not None:
            read["encoder_attention_mask"] = mask
        written = [self.rules.start]
        cache: Feed = {}
        while len(written) <= self.rules.longest and (len(written) == 1 or written[-1] not in self.rules.ends):
            logits, cache = self._step(written, read, cache, where)
            written.append(self._choose(logits, len(written), where))
        return written[1:]

    def _step(self, written: Sequence[int], read: Feed, cache: Feed, where: str) -> tuple[Array, Feed]:
        """Scores of the next token, and the cache that holds all tokens so far.

        An encoder's keys and values never change: after the first step they stay what they were, whatever a decoder
        returns for them.
        """
        part = self.next if cache and self.next is not None else self.decoder
        ids = np.array([written[-1:] if cache else written], np.int64)
        found = part.run({"input_ids": ids, **read, **cache}, where)
        logits = next((array for name, array in found.items() if stem(name) == "logits"), None)
        if logits is None:
            raise ModelError(f"{part.session.name} has no output `logits`. Export it as text2text-generation.")
        fresh = self.next.cache(found) if self.next is not None else {}
        kept = {name: array for name, array in cache.items() if name not in fresh or "encoder" in stem(name)}
        return logits[0, -1].astype(np.float64), {**fresh, **kept}

    def _choose(self, logits: Array, count: int, where: str) -> int:
        if count == 1 and self.rules.first is not None:
            return self.rules.first
        logits[[token for token in self.rules.banned if token < len(logits)]] = -np.inf
        if np.isnan(logits).any() or not np.isfinite(logits.max()):
            raise ModelError(
                f"The scores of {self.name} are NaN or infinite (in {where}, token {count}). The model is broken: "
                "quantize it with other settings, or leave out the nodes that overflow."
            )
        return int(logits.argmax())


def _setting(folder: Path, key: str) -> object:
    found = (read_setting(folder, file, key) for file in _CONFIGURATIONS)
    return next((value for value in found if value is not None), None)
