"""A model that is evaluated on text: its session, and what turns text into its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxfq.arrays import Array
from onnxfq.errors import DataError, ModelError
from onnxfq.feeds import Feed, Text, complete
from onnxfq.session import Session
from onnxfq.signature import Signature


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
