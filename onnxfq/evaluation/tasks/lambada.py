"""The last word of passages that make it plain: how often a language model finds it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onnxfq.errors import DataError
from onnxfq.feeds import Column, read_records
from onnxfq.feeds.records import text as text_of
from onnxfq.metrics.distributions import guesses
from onnxfq.metrics.evaluated_model import EvaluatedModel
from onnxfq.metrics.metric import Metric, mean_metric
from onnxfq.metrics.perplexity import Told

COLUMNS = (Column("text", ("passage",)),)


def evaluate_lambada(
    model: EvaluatedModel, baseline: EvaluatedModel | None, path: Path, *, samples: int | None, tell: Told
) -> list[Metric]:
    """Accuracy and loss on the last word of each passage.

    A word counts as found if all its tokens are the likeliest ones, each after the true tokens before it, which is
    when greedy decoding writes it. Its loss is the sum over its tokens. PerplexityText longer than the model takes lose
    their beginning.

    Source: D. Paperno et al., "The LAMBADA dataset: Word prediction requiring a broad discourse context", 2016.

    Args:
        model: the language model.
        baseline: what it is compared with, passage by passage.
        path: passages, `text`, in a .jsonl, .csv or .tsv file.
        samples: how many at most, the first ones; None for all.
        tell: called with how many are done, and how many there are.

    Returns:
        Figures "lambada_accuracy" and "lambada_loss" (nats a word).

    Raises:
        DataError: the passages cannot be read, or do not fit the model.
        ModelError: a model does not run.
    """
    subjects = [subject for subject in (model, baseline) if subject is not None]
    passages = list(read_records(path, COLUMNS, samples=samples))
    if not passages:
        raise DataError(f"There are no passages in {path}. Give a file that holds at least one.")
    hits: list[list[float]] = [[] for _ in subjects]
    losses: list[list[float]] = [[] for _ in subjects]
    length = min(subject.text.length for subject in subjects)
    for number, (record, where) in enumerate(passages, start=1):
        ids, word = _cut(*model.text.last_word(text_of(record, "text", where)), length, where)
        for index, subject in enumerate(subjects):
            guessed = guesses(subject.scores(ids, where)[-word - 1 : -1], ids[-word:])
            loss = float(guessed.loss.sum())
            losses[index].append(loss)
            hits[index].append(float(guessed.hit.all()) if not np.isnan(loss) else np.nan)
        tell(number, len(passages))
    figures = (("lambada_accuracy", hits), ("lambada_loss", losses))
    return [mean_metric(name, *values) for name, values in figures]


def _cut(ids: Sequence[int], word: int, length: int, where: str) -> tuple[Sequence[int], int]:
    """The last ids that the model takes, and how many of them are the last word."""
    ids = ids[-length:]
    if not 0 < word < len(ids):
        raise DataError(
            f"There is no last word with a context before it (in {where}; got {len(ids)} tokens, {word} of them the "
            "word). Give a passage of several words, or raise `seq_len`."
        )
    return ids, word
