"""Logits as distributions, a few rows at a time: no copy of a window's logits is ever made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Array, Float64Array
from onnxfq.errors import ModelError

BLOCK = 1 << 20  # elements worked on at once: logits of a long text would not fit in float64


def log_softmax(rows: Float64Array) -> Float64Array:
    """Log probabilities of rows [rows, classes]; a row that holds NaN or +∞, or nothing but −∞, becomes NaN."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        shifted = rows - rows.max(axis=1, keepdims=True, initial=-np.inf)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def divergence(log_p: Float64Array, log_q: Float64Array) -> Float64Array:
    """KL(p ‖ q) of each row, in nats; rounding does not make it negative. A class that p rules out adds nothing."""
    p = np.exp(log_p)
    with np.errstate(invalid="ignore"):
        terms = np.where(p == 0.0, 0.0, p * (log_p - log_q))
    return np.asarray(np.maximum(terms.sum(axis=1), 0.0))


@dataclass(frozen=True, slots=True)
class Guesses:
    """How well rows of logits guess their targets.

    Attributes:
        loss: −log p(target) of each row, in nats; NaN where the row is no distribution.
        hit: whether the target is the likeliest.
    """

    loss: Float64Array
    hit: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far rows of logits are from the baseline's.

    Attributes:
        kl: KL(baseline ‖ model) of each row, in nats; NaN where a row is no distribution.
        same: 1 where the likeliest class is the same, else 0; NaN where a row is no distribution.
    """

    kl: Float64Array
    same: Float64Array


def guesses(logits: Array, targets: Sequence[int] | npt.NDArray[np.int64]) -> Guesses:
    """Hold rows of logits [rows, classes] against one target a row."""
    wanted = np.asarray(targets, np.int64)
    loss, hit = np.empty(len(wanted)), np.empty(len(wanted), np.bool_)
    for rows in _blocks(logits):
        log_p = log_softmax(logits[rows].astype(np.float64))
        here = wanted[rows]
        loss[rows] = -np.take_along_axis(log_p, here[:, np.newaxis], axis=1)[:, 0]
        hit[rows] = (log_p.argmax(axis=1) == here) & ~np.isnan(loss[rows])
    return Guesses(loss, hit)


def agreement(baseline: Array, model: Array) -> Agreement:
    """Hold rows of logits [rows, classes] against the baseline's."""
    kl, same = np.empty(len(baseline)), np.empty(len(baseline))
    for rows in _blocks(baseline):
        log_p, log_q = (log_softmax(logits[rows].astype(np.float64)) for logits in (baseline, model))
        kl[rows] = divergence(log_p, log_q)
        valid = ~np.isnan(log_p[:, 0] + log_q[:, 0])
        same[rows] = np.where(valid, log_p.argmax(axis=1) == log_q.argmax(axis=1), np.nan)
    return Agreement(kl, same)


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


def _blocks(logits: Array) -> Iterator[slice]:
    step = max(1, BLOCK // logits.shape[1])
    return (slice(start, start + step) for start in range(0, len(logits), step))
