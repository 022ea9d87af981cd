"""Sentence encoders: whether pairs of sentences are as similar as people find them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxfq.arrays import Float64Array
from onnxfq.errors import DataError, ModelError
from onnxfq.evaluation.evaluated_model import EvaluatedModel
from onnxfq.evaluation.evaluation_config import EvaluationConfig
from onnxfq.evaluation.tasks.task import Task, TaskResult
from onnxfq.feeds import Column, complete, read_records, stem
from onnxfq.feeds.model_kind import embedding_output, recognize
from onnxfq.feeds.records import number
from onnxfq.feeds.records import text as text_of
from onnxfq.metrics.metric import Metric, finite, mean_metric
from onnxfq.signature import Signature

COLUMNS = (
    Column("sentence1", ("text1", "sentence_1", "sent1")),
    Column("sentence2", ("text2", "sentence_2", "sent2")),
    Column("score", ("similarity_score", "similarity", "label")),
)
SPEARMAN, COSINE = Metric("spearman", None, higher_is_better=True), Metric("cosine", None)


def evaluate_sts(config: EvaluationConfig) -> TaskResult:
    """Rank correlation of the cosines of pairs of sentences with their scores.

    Every sentence is encoded alone. A sentence is the mean of its tokens' vectors, special tokens included, or what
    the model itself gives as a sentence's vector.

    Source: N. Reimers, I. Gurevych, "Sentence-BERT", 2019, section 4.1 (Spearman's correlation on STS-B).

    Args:
        config: with pairs and their scores, in a .csv, .tsv or .jsonl file.

    Returns:
        "spearman" and, with a baseline, "cosine": the mean over sentences of the cosine between both models'
        vectors.

    Raises:
        DataError: the pairs cannot be read, or do not fit the model.
        ModelError: a model does not run.
    """
    model, baseline = config.load_models(embedding_output)
    tell, path = config.tell("pairs of sentences"), config.data_file
    pairs = list(read_records(path, COLUMNS, samples=config.samples))
    if len(pairs) < 2:
        raise DataError(f"A rank correlation needs two pairs of sentences or more (in {path}; got {len(pairs)}).")
    models = [model for model in (model, baseline) if model is not None]
    similarities = np.empty((len(models), len(pairs)))
    scores, agreement = np.empty(len(pairs)), []
    for index, (record, where) in enumerate(pairs):
        scores[index] = number(record, "score", where)
        sentences = [text_of(record, column.name, where) for column in COLUMNS[:2]]
        vectors = [[embed(model, sentence, where) for sentence in sentences] for model in models]
        similarities[:, index] = [cosine(*pair) for pair in vectors]
        if baseline is not None:
            agreement += [cosine(one, other) for one, other in zip(*vectors, strict=True)]
        tell(index + 1, len(pairs))
    metrics = [_correlation(scores, *similarities)]
    return [*metrics, mean_metric(COSINE, agreement)] if baseline is not None else metrics, []


def _correlation(scores: Float64Array, own: Float64Array, other: Float64Array | None = None) -> Metric:
    value, before = spearman(own, scores), None if other is None else spearman(other, scores)
    note = None
    if not all(np.isfinite(values).all() for values in (own, scores, other) if values is not None):
        note = "some similarities or scores are NaN or infinite"
    elif value is None:
        note = "all similarities, or all scores, are the same"
    difference = None if value is None or before is None else value - before
    return replace(SPEARMAN, value=value, baseline=before, difference=difference, samples=len(scores), note=note)


def embed(model: EvaluatedModel, sentence: str, where: str) -> Float64Array:
    """The vector of one sentence.

    Raises:
        DataError: the sentence does not fit the model.
        ModelError: the model does not run, or gives no vectors.
    """
    feed = complete(model.text.encode_pair(sentence, None), model.signature, where)
    found = model.run(feed, where).astype(np.float64)
    if found.ndim == 2 and len(found) == 1:
        return np.asarray(found[0])
    if found.ndim != 3 or len(found) != 1:
        raise ModelError(
            f"{model.session.name} gives no vector for a sentence (got {model.output} {list(found.shape)}; wanted "
            '[1, tokens, features] or [1, features]). Evaluate it with `task="outputs"`.'
        )
    masks = [array[0] for name, array in feed.items() if stem(name) == "attention_mask"]
    mask = masks[0].astype(np.float64) if masks and masks[0].shape == found.shape[1:2] else np.ones(found.shape[1])
    return np.asarray(mask @ found[0] / max(mask.sum(), 1.0))


def cosine(one: Float64Array, other: Float64Array) -> float:
    """Between two vectors; 0 where one is nothing but zeros."""
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return 0.0 if lengths == 0.0 else float(one @ other) / lengths


def spearman(one: Float64Array, other: Float64Array) -> float | None:
    """Rank correlation, equal values sharing a mean rank; None where one of the two does not vary, or is not finite."""
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return None
    a, b = (ranks - ranks.mean() for ranks in (_ranks(one), _ranks(other)))
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return finite(float(a @ b) / spread) if spread > 0.0 else None


def _ranks(values: Float64Array | Sequence[float]) -> Float64Array:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], np.float64)


def _fits(config: EvaluationConfig, signature: Signature | None) -> bool:
    suited = config.has_table or (config.data is None and config.text is None)
    return suited and signature is not None and recognize(signature) == "sentences"


STS = Task(
    name="sts",
    needs="pairs of sentences with their scores, with `data=FILE.csv`",
    takes="data",
    fits=_fits,
    metrics=lambda config: (SPEARMAN, COSINE),
    run=evaluate_sts,
    notes=("A sentence is the mean of its tokens, unless the model itself gives a vector for it.",),
)
