"""A model that is evaluated on text: its session, and what turns text into its inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxfq.arrays import Array, Float64Array
from onnxfq.errors import DataError, ModelError
from onnxfq.feeds import Feed, Text, complete
from onnxfq.session import Session
from onnxfq.signature import Signature

TRIED_TOKENS = 16
AHEAD = 0.05  # the change of the token before, relative to that of the token itself


@dataclass(frozen=True, slots=True, eq=False)
class EvaluatedModel:
    """One of the models that are compared.

    Attributes:
        session: runs it.
        signature: its inputs, with vocabularies.
        text: makes its inputs from text.
        output: the one that is looked at.
    """

    session: Session
    signature: Signature
    text: Text
    output: str

    def run(self, feed: Feed, where: str) -> Array:
        """The output for given inputs; what follows from them is filled in.

        Raises:
            DataError: they do not fit the model.
            ModelError: the model does not run.
        """
        return self.session.run(complete(feed, self.signature, where), [self.output])[self.output]

    def tokens(self, ids: Sequence[int], where: str) -> Array:
        """The output for each token [tokens, features] of one text; where the model fixes its length, padding is cut.

        Raises:
            DataError: the ids do not fit the model.
            ModelError: the model does not run, or does not score every token.
        """
        found = self.run(self.text.feed(ids), where)
        rows = found[0] if found.ndim == 3 else found
        if rows.ndim != 2 or len(rows) < len(ids):
            raise ModelError(
                f"{self.session.name} does not score every token (got {self.output} {list(found.shape)} for {len(ids)} "
                "tokens). Export it with scores for all tokens."
            )
        return rows[: len(ids)]

    def scores(self, ids: Sequence[int], where: str) -> Array:
        """The logits for each token [tokens, vocabulary] of one text.

        Raises:
            DataError: the ids do not fit the model, or its scores do not cover them.
            ModelError: the model does not run, or does not score every token.
        """
        rows = self.tokens(ids, where)
        if max(ids) >= rows.shape[1]:
            raise DataError(
                f"The tokenizer knows tokens that the model does not score (in {where}; got id {max(ids)} and "
                f"{rows.shape[1]} scores). Give the model's own tokenizer with `tokenizer=DIR`."
            )
        return rows


def refuse_different_vocabularies(model: Array, baseline: Array) -> None:
    """Refuse to compare distributions over different numbers of tokens or classes.

    Raises:
        ModelError: the last axes differ.
    """
    if model.shape[-1] != baseline.shape[-1]:
        raise ModelError(
            f"The model scores {model.shape[-1]} tokens or classes, the baseline {baseline.shape[-1]}: they cannot be "
            "compared. Name the model that this one was made from with `baseline`."
        )


def looks_ahead(scores: Callable[[Sequence[int]], Array], ids: Sequence[int]) -> bool:
    """Whether the scores of a token depend on the token after it, as those of a masked language model do.

    Tried out by changing the last of some tokens. What dynamic quantization does to the token before is far smaller
    than what the change does to the token itself.

    Args:
        scores: the model: logits [tokens, vocabulary] of the tokens of a text.
        ids: of some text.
    """
    shown = list(ids[:TRIED_TOKENS])
    changed = [*shown[:-1], shown[0] if shown[0] != shown[-1] else (shown[-1] + 1) % (max(shown) + 1)]
    before, after = (scores(tokens).astype(np.float64)[-2:] for tokens in (shown, changed))
    return sees_change(before, after)


def sees_change(before: Float64Array, after: Float64Array) -> bool:
    """Whether the scores of a token [2, vocabulary] change with the token after it, which is another one."""
    with np.errstate(invalid="ignore"):
        earlier, last = np.abs(after - before).mean(axis=1)
    return bool(earlier > AHEAD * last)
