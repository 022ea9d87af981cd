"""Perplexity of a language model on running text, and how far its predictions are from a baseline's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxfq.arrays import Array, Float64Array
from onnxfq.errors import DataError, ModelError
from onnxfq.feeds import has_cache
from onnxfq.metrics.distributions import agreement, guesses
from onnxfq.metrics.evaluated_model import EvaluatedModel, looks_ahead, refuse_different_vocabularies
from onnxfq.metrics.metric import Metric, finite, mean_metric, trouble

Told = Callable[[int, int], None]
TOO_LARGE = "too large for a number"
RARE = 0.999  # the quantile of KL that is reported beside its mean


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


@dataclass
class _LanguageSums:
    """What has been measured, a number a window or a token; the logits themselves are forgotten."""

    losses: TokenLosses = field(default_factory=TokenLosses)
    kl: list[Float64Array] = field(default_factory=list)
    same: list[Float64Array] = field(default_factory=list)


def evaluate_language(
    model: EvaluatedModel,
    baseline: EvaluatedModel | None,
    text: str,
    *,
    samples: int | None,
    tell: Told,
    name: str = "the text",
) -> list[Metric]:
    """Perplexity on a text, and KL and top-1 agreement with the baseline.

    The whole text is encoded once and cut into full windows. Of each window of T tokens, the perplexity counts the
    T−1 that have one before them, KL and top-1 count all T.

    Source: E. Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
    2022, whose evaluation of WikiText-2 this is.

    Args:
        model: the language model.
        baseline: what it is compared with, window by window.
        text: the text.
        samples: how many windows at most, the first ones; None for all.
        tell: called with how many windows are done, and how many there are.
        name: of the text, for messages.

    Returns:
        Figures "perplexity" and, with a baseline, "kl", "kl_p999" and "top1".

    Raises:
        DataError: the text has no full window, or does not fit the model.
        ModelError: a model does not run, or sees the tokens that it should predict.
    """
    length = min(subject.text.length for subject in (model, baseline) if subject is not None)
    windows = full_windows(model.text.ids(text), length)[:samples]
    _refuse_looking_ahead(baseline or model, windows[0])
    seen = _LanguageSums()
    for number, ids in enumerate(windows, start=1):
        _add(seen, model, baseline, ids, f"window {number} of {name}")
        tell(number, len(windows))
    return list(_figures(seen, compared=baseline is not None))


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


def _refuse_looking_ahead(subject: EvaluatedModel, ids: Sequence[int]) -> None:
    """A model with a cache of earlier tokens cannot see later ones; others are tried out."""
    if not has_cache(subject.signature) and looks_ahead(lambda tokens: subject.scores(tokens, "the text"), ids):
        raise ModelError(f'{sees_later_tokens(subject.session.name)} Evaluate it with `task="outputs"`.')


def sees_later_tokens(name: str) -> str:
    """What to say of a model that has no perplexity."""
    return f"{name} sees the tokens after the one it scores, as masked language models do: it has no perplexity."


def _add(
    seen: _LanguageSums, model: EvaluatedModel, baseline: EvaluatedModel | None, ids: Sequence[int], where: str
) -> None:
    logits = model.scores(ids, where)
    if baseline is None:
        seen.losses.add(ids, logits)
        return
    expected = baseline.scores(ids, where)
    refuse_different_vocabularies(logits, expected)
    seen.losses.add(ids, logits, expected)
    agreed = agreement(expected, logits)
    seen.kl.append(agreed.kl)
    seen.same.append(agreed.same)


def _loss(logits: Array, ids: Sequence[int]) -> float:
    """Mean of a window's T−1 predicted tokens, in nats."""
    return float(guesses(logits[:-1], ids[1:]).loss.mean())


def _figures(seen: _LanguageSums, *, compared: bool) -> Iterator[Metric]:
    yield seen.losses.perplexity()
    if compared:
        yield mean_metric("kl", [float(kl.mean()) for kl in seen.kl])
        tokens = np.concatenate(seen.kl)
        yield Metric("kl_p999", _quantile(tokens), samples=len(tokens), note=trouble(tokens))
        yield mean_metric("top1", [float(same.mean()) for same in seen.same])


def perplexity(loss: Sequence[float], baseline: Sequence[float] | None = None) -> Metric:
    """The exponential of the mean loss, and how much it is above the baseline's.

    The standard errors are those of the losses carried through the exponential (the delta method); that of the
    difference comes from each window's part in it.

    Args:
        loss: mean loss of each window, in nats.
        baseline: the baseline's of the same windows.
    """
    own = mean_metric("perplexity", loss)
    value = _exp(own.value)
    error = None if value is None or own.standard_error is None else value * own.standard_error
    if baseline is None:
        note = own.note or (TOO_LARGE if value is None else None)
        return replace(own, value=value, standard_error=error, note=note)
    paired = mean_metric("perplexity", loss, baseline)
    before = _exp(paired.baseline)
    if value is None or before is None:
        return Metric("perplexity", value, error, before, samples=len(loss), note=paired.note or TOO_LARGE)
    parts = mean_metric("parts", [value * a - before * b for a, b in zip(loss, baseline, strict=True)])
    return Metric("perplexity", value, error, before, value - before, parts.standard_error, len(loss))


def _quantile(values: Float64Array) -> float | None:
    """The 99.9th percentile; None where not all values are numbers."""
    if np.isnan(values).any():
        return None
    with np.errstate(invalid="ignore"):  # between two infinities
        return finite(float(np.quantile(values, RARE)))


def _exp(loss: float | None) -> float | None:
    try:
        return None if loss is None else math.exp(loss)
    except OverflowError:
        return None
