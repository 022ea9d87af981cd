"""Texts on which a model and its original are held against each other: their perplexity, from feeds and logits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxfq.arrays import Array
from onnxfq.errors import DataError, ModelError
from onnxfq.feeds import Feed, Feeds, Text, complete, read_lines, role, stem, takes_token_ids, token_masks
from onnxfq.feeds.model_kind import find_language_output
from onnxfq.input_files import FEED_FILES, RECORD_FILES, RUNNING_TEXT
from onnxfq.metrics.distributions import refuse_different_vocabularies
from onnxfq.metrics.perplexity import TokenLosses, full_windows, sees_change
from onnxfq.signature import Signature

Outputs = Mapping[str, Array]
Pair = tuple[Outputs, Outputs]  # the original's and the other model's, of one sample
_IDS = ("decoder_input_ids", "input_ids")


@dataclass(frozen=True, slots=True, eq=False)
class PerplexityText:
    """Texts for the perplexity of a language model.

    Attributes:
        feeds: complete inputs, one or several texts in each.
        signature: the model's.
        output: holds the logits [batch, tokens, vocabulary].
        shared: whether these are the very samples that all outputs are compared on.
    """

    feeds: Feeds
    signature: Signature
    output: str
    shared: bool

    def watched(self, losses: TokenLosses, pairs: Iterable[Pair]) -> Iterator[Pair]:
        """Hand on what both models gave for each sample, original first, and add the losses on the way."""
        for sample, (expected, got) in enumerate(pairs):
            self.add(losses, sample, expected, got)
            yield expected, got

    def sees_later_tokens(self, run: Callable[[Feeds], Sequence[Outputs]]) -> bool:
        """Whether the scores of a token depend on the token after it, tried out on the first text of two or more.

        Args:
            run: the model.
        """
        for feed in self.feeds:
            name, ids, kept = self._tokens(feed)
            shown = np.flatnonzero(kept[0])[-2:]
            if len(shown) == 2:
                changed = ids.copy()
                first, last = ids[0, shown]
                changed[0, shown[1]] = first if first != last else (last + 1) % (ids.max() + 1)
                other = {**feed, name: changed.reshape(feed[name].shape)}
                found = run(Feeds((feed, other), self.feeds.origin))
                before, after = (self._scores(outputs, ids)[0, shown].astype(np.float64) for outputs in found)
                return sees_change(before, after)
        return False

    def add(self, losses: TokenLosses, sample: int, expected: Outputs, got: Outputs) -> None:
        """Add what both models gave for a sample.

        Raises:
            DataError: the text has tokens that the model does not score.
            ModelError: a model does not score every token, or the two score different numbers of them.
        """
        _, ids, kept = self._tokens(self.feeds[sample])
        old, new = self._scores(expected, ids), self._scores(got, ids)
        refuse_different_vocabularies(new, old)
        if ids.max() >= old.shape[-1]:
            raise DataError(
                f"The text has tokens that the model does not score (got id {ids.max()} and {old.shape[-1]} scores). "
                "Give the model's own tokenizer with `tokenizer=DIR`."
            )
        for row, mask in enumerate(kept):
            if mask.sum() > 1:
                losses.add([int(number) for number in ids[row, mask]], new[row, mask], old[row, mask])

    def _tokens(self, feed: Feed) -> tuple[str, Array, Array]:
        """The name of the input of token ids, the ids [batch, tokens], and which of them are no padding."""
        names = [s.name for s in self.signature.inputs if takes_token_ids(s) and role(s) == "data"]
        name = min(names, key=lambda n: _IDS.index(stem(n)) if stem(n) in _IDS else len(_IDS))
        ids = feed[name].reshape(-1, feed[name].shape[-1])
        masks = [mask for mask in token_masks(feed, self.signature) if mask.shape == ids.shape]
        return name, ids, masks[0] if masks else np.ones(ids.shape, bool)

    def _scores(self, outputs: Outputs, ids: Array) -> Array:
        scores = outputs[self.output]
        if scores.size and scores.ndim >= 2 and scores.size == ids.size * scores.shape[-1]:
            return scores.reshape(*ids.shape, scores.shape[-1])
        raise ModelError(
            f"The model does not score every token (got {self.output} {list(scores.shape)} for {list(ids.shape)} "
            "tokens), so that it has no perplexity. Export it with scores for all tokens."
        )


def read_perplexity_text(
    path: Path, signature: Signature, *, tokenizer: Path | None, samples: int, seq_len: int
) -> PerplexityText | None:
    """The first full windows of a running text; None for a model that is no language model.

    Args:
        path: a file of plain text.
        signature: the model's.
        tokenizer: the folder with tokenizer.json, or that file.
        samples: how many windows at most.
        seq_len: tokens of a window; the model's own limit holds besides.

    Raises:
        DataError: the file cannot be read, has no full window, or does not fit the model.
        UsageError: there is no tokenizer.
    """
    output = find_language_output(signature)
    if output is None:
        return None
    text = Text(tokenizer, signature, seq_len)
    windows = full_windows(text.ids(read_running_text(path)), text.length)[:samples]
    feeds = [
        complete(text.feed(ids), signature, f"window {number} of {path.name}")
        for number, ids in enumerate(windows, start=1)
    ]
    return PerplexityText(Feeds(tuple(feeds), f"given: {path.resolve().name}"), signature, output, shared=False)


def given_perplexity_text(feeds: Feeds, signature: Signature) -> PerplexityText | None:
    """Samples that are there already, as texts; None for a model that is no language model."""
    output = find_language_output(signature)
    return None if output is None else PerplexityText(feeds, signature, output, shared=True)


def read_running_text(path: Path) -> str:
    """The whole text of a file.

    Raises:
        DataError: it cannot be read, or is a table.
    """
    if path.suffix.lower() in {*FEED_FILES, *RECORD_FILES} - {RUNNING_TEXT}:
        raise DataError(f"{path} is not running text (got {path.suffix}). Give plain text, a {RUNNING_TEXT} file.")
    return "".join(read_lines(path))
