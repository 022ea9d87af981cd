"""The last word of passages that make it plain: how often a language model finds it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onnxfq.errors import DataError
from onnxfq.evaluation.evaluated_model import EvaluatedModel
from onnxfq.evaluation.evaluation_config import EvaluationConfig
from onnxfq.feeds import Column, read_records
from onnxfq.feeds.records import text as text_of
from onnxfq.metrics.distributions import guesses
from onnxfq.metrics.metric import Metric, mean_metric

COLUMNS = (Column("text", ("passage",)),)
ACCURACY = Metric("lambada_accuracy", None, higher_is_better=True)
LOSS = Metric("lambada_loss", None, higher_is_better=False)
LAST_WORDS = (ACCURACY, LOSS)


def evaluate_lambada(
    config: EvaluationConfig, path: Path, model: EvaluatedModel, baseline: EvaluatedModel | None
) -> list[Metric]:
    """Accuracy and loss on the last word of each passage.

    A word counts as found if all its tokens are the likeliest ones, each after the true tokens before it, which is
    when greedy decoding writes it. Its loss is the sum over its tokens. Passages longer than the model takes lose
    their beginning.

    Source: D. Paperno et al., "The LAMBADA dataset: Word prediction requiring a broad discourse context", 2016.

    Args:
        config: says how many passages to use.
        path: passages, `text`, in a .jsonl, .csv or .tsv file.
        model: the language model.
        baseline: what it is compared with, passage by passage.

    Returns:
        "lambada_accuracy" and "lambada_loss" (nats a word).

    Raises:
        DataError: the passages cannot be read, or do not fit the model.
        ModelError: a model does not run.
    """
    models = [model for model in (model, baseline) if model is not None]
    passages, tell = list(read_records(path, COLUMNS, samples=config.samples)), config.tell("last words")
    if not passages:
        raise DataError(f"There are no passages in {path}. Give a file that holds at least one.")
    hits: list[list[float]] = [[] for _ in models]
    losses: list[list[float]] = [[] for _ in models]
    length = min(model.text.length for model in models)
    for number, (record, where) in enumerate(passages, start=1):
        ids, word = _cut(*model.text.last_word(text_of(record, "text", where)), length, where)
        for index, judged in enumerate(models):
            guessed = guesses(judged.scores(ids, where)[-word - 1 : -1], ids[-word:])
            loss = float(guessed.loss.sum())
            losses[index].append(loss)
            hits[index].append(float(guessed.hit.all()) if not np.isnan(loss) else np.nan)
        tell(number, len(passages))
    return [mean_metric(ACCURACY, *hits), mean_metric(LOSS, *losses)]


def _cut(ids: Sequence[int], word: int, length: int, where: str) -> tuple[Sequence[int], int]:
    """The last ids that the model takes, and how many of them are the last word."""
    ids = ids[-length:]
    if not 0 < word < len(ids):
        raise DataError(
            f"There is no last word with a context before it (in {where}; got {len(ids)} tokens, {word} of them the "
            "word). Give a passage of several words, or raise `seq_len`."
        )
    return ids, word
