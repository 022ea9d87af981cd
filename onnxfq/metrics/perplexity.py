"""Perplexity of a language model on running text, window by window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxfq.arrays import Array, Float64Array
from onnxfq.errors import DataError
from onnxfq.metrics.distributions import guesses
from onnxfq.metrics.metric import Metric, mean_metric

PERPLEXITY = Metric("perplexity", None, higher_is_better=False)
TOO_LARGE = "too large for a number"
AHEAD = 0.05  # the change of the token before, relative to that of the token itself


@dataclass
class TokenLosses:
    """Losses of a model on texts, and those of the one it is compared with: a number a text, no logits are kept.

    Attributes:
        model: mean loss of each text's predicted tokens, in nats.
        baseline: the baseline's of the same texts; empty where there is none.
        tokens: how many were predicted of each text.
    """

    model: list[float] = field(default_factory=list)
    baseline: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def add(self, ids: Sequence[int], scores: Array, expected: Array | None = None) -> None:
        """Add a text of T tokens, of which T−1 have one before them.

        Args:
            ids: of its tokens, two or more.
            scores: the model's logits for each token [T, vocabulary].
            expected: the baseline's.
        """
        self.tokens.append(len(ids) - 1)
        self.model.append(_loss(scores, ids))
        if expected is not None:
            self.baseline.append(_loss(expected, ids))

    def perplexity(self) -> Metric:
        """The exponential of the mean loss of all predicted tokens."""
        return perplexity(self._weighed(self.model), self._weighed(self.baseline) if self.baseline else None)

    def _weighed(self, losses: Sequence[float]) -> list[float]:
        """A text counts by its tokens: the mean over texts is that over tokens."""
        mean = sum(self.tokens) / len(self.tokens)
        return [loss * (tokens / mean) for loss, tokens in zip(losses, self.tokens, strict=True)]


def full_windows(ids: list[int], length: int) -> list[list[int]]:
    """Consecutive windows of a text's tokens; what is left at the end is no window.

    Raises:
        DataError: there is none, or windows are too short to predict anything in.
    """
    if length < 2:
        raise DataError(f"Perplexity needs windows of 2 tokens or more (got {length}). Raise `seq_len`.")
    full = len(ids) // length
    if not full:
        raise DataError(
            f"The text is too short for one window (got {len(ids)} tokens, wanted {length}). "
            f"Give a longer text{f', or `seq_len={len(ids)}`' if len(ids) > 1 else ''}."
        )
    return [ids[start : start + length] for start in range(0, full * length, length)]


def sees_change(before: Float64Array, after: Float64Array) -> bool:
    """Whether the scores of a token [2, vocabulary] change with the token after it, which is another one.

    What dynamic quantization does to the token before is far smaller than what the change does to the token itself.

    Args:
        before: scores of the last two tokens of a text.
        after: the same with another last token.
    """
    with np.errstate(invalid="ignore"):
        earlier, last = np.abs(after - before).mean(axis=1)
    return bool(earlier > AHEAD * last)


def sees_later_tokens(name: str) -> str:
    """What to say of a model that has no perplexity."""
    return f"{name} sees the tokens after the one it scores, as masked language models do: it has no perplexity."


def perplexity(loss: Sequence[float], baseline: Sequence[float] | None = None) -> Metric:
    """The exponential of the mean loss, and how much it is above the baseline's.

    The standard errors are those of the losses carried through the exponential (the delta method); that of the
    difference comes from each window's part in it.

    Args:
        loss: mean loss of each window, in nats.
        baseline: the baseline's of the same windows.
    """
    own = mean_metric(PERPLEXITY, loss)
    value = _exp(own.value)
    error = None if value is None or own.standard_error is None else value * own.standard_error
    own = replace(own, value=value, standard_error=error)
    if baseline is None:
        return replace(own, note=own.note or (TOO_LARGE if value is None else None))
    paired = mean_metric(PERPLEXITY, loss, baseline)
    before = _exp(paired.baseline)
    if value is None or before is None:
        return replace(own, baseline=before, note=paired.note or TOO_LARGE)
    parts = mean_metric(PERPLEXITY, [value * a - before * b for a, b in zip(loss, baseline, strict=True)])
    return replace(own, baseline=before, difference=value - before, difference_error=parts.standard_error)


def _loss(logits: Array, ids: Sequence[int]) -> float:
    """Mean of a window's T−1 predicted tokens, in nats."""
    return float(guesses(logits[:-1], ids[1:]).loss.mean())


def _exp(loss: float | None) -> float | None:
    try:
        return None if loss is None else math.exp(loss)
    except OverflowError:
        return None
