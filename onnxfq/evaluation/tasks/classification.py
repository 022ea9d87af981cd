"""Classifiers of text or of arrays: how often they are right, and how far from a baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from onnxfq.arrays import Array
from onnxfq.errors import DataError, ModelError
from onnxfq.evaluation.evaluated_model import EvaluatedModel
from onnxfq.evaluation.evaluation_config import EvaluationConfig
from onnxfq.evaluation.tasks.task import Task, TaskResult
from onnxfq.feeds import Column, Feed, read_records, read_setting
from onnxfq.feeds.model_kind import class_output, recognize
from onnxfq.feeds.npz import read_arrays
from onnxfq.feeds.records import text as text_of
from onnxfq.metrics.distributions import agreement, guesses, refuse_different_vocabularies
from onnxfq.metrics.metric import Metric, mean_metric
from onnxfq.signature import Signature

COLUMNS = (
    Column("text", ("sentence", "sentence1", "text1", "premise", "question1", "question")),
    Column("text_pair", ("sentence2", "text2", "hypothesis", "question2"), optional=True),
    Column("label", ("labels", "class")),
)
LABELS = "labels"
ACCURACY, LOSS = Metric("accuracy", None, higher_is_better=True), Metric("loss", None, higher_is_better=False)
KL, TOP1 = Metric("kl", None), Metric("top1", None)

Feeder = Callable[[EvaluatedModel], Feed]


@dataclass(frozen=True, slots=True)
class _Sample:
    feed: Feeder
    label: object
    where: str


@dataclass
class _ClassSums:
    hits: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)

    def add(self, logits: Array, label: int) -> None:
        """Add a sample, of logits [1, classes]."""
        guessed = guesses(logits, [label])
        self.loss.append(float(guessed.loss[0]))
        self.hits.append(float(guessed.hit[0]) if not np.isnan(guessed.loss[0]) else np.nan)


def evaluate_classification(config: EvaluationConfig) -> TaskResult:
    """Accuracy and loss on labelled samples, and KL and top-1 agreement with the baseline.

    Args:
        config: with texts (or pairs of texts) and their labels, in a .csv, .tsv or .jsonl file; or with a .npz file of
            the model's inputs and `labels` beside them, the first axis counting samples.

    Returns:
        "accuracy", "loss" (nats) and, with a baseline, "kl" and "top1".

    Raises:
        DataError: the samples cannot be read, or do not fit the model.
        ModelError: a model does not run, or scores no classes.
    """
    model, baseline = config.load_models(class_output)
    names, tell, path = _label_names(config.tokenizer), config.tell("classification"), config.data_file
    read = _from_arrays if path.suffix.lower() == ".npz" else _from_texts
    given = list(read(path, config.samples))
    if not given:
        raise DataError(f"There are no samples in {path}. Give a file that holds at least one.")
    seen, before = _ClassSums(), _ClassSums()
    kl: list[float] = []
    same: list[float] = []
    for number, sample in enumerate(given, start=1):
        logits = _scores(model, sample)
        label = _number(sample, names, logits.shape[1])
        seen.add(logits, label)
        if baseline is not None:
            expected = _scores(baseline, sample)
            refuse_different_vocabularies(logits, expected)
            before.add(expected, label)
            agreed = agreement(expected, logits)
            kl.append(float(agreed.kl[0]))
            same.append(float(agreed.same[0]))
        tell(number, len(given))
    metrics = [
        mean_metric(ACCURACY, seen.hits, before.hits if baseline else None),
        mean_metric(LOSS, seen.loss, before.loss if baseline else None),
    ]
    return [*metrics, mean_metric(KL, kl), mean_metric(TOP1, same)] if baseline else metrics, []


def _from_texts(path: Path, samples: int | None) -> Iterator[_Sample]:
    for record, where in read_records(path, COLUMNS, samples=samples):
        first = text_of(record, "text", where)
        second = text_of(record, "text_pair", where) if "text_pair" in record else None
        yield _Sample(_encoder(first, second), record["label"], where)


def _encoder(first: str, second: str | None) -> Feeder:
    return lambda model: model.text.encode_pair(first, second)


def _from_arrays(path: Path, samples: int | None) -> Iterator[_Sample]:
    arrays = read_arrays(path)
    if LABELS not in arrays or arrays[LABELS].ndim != 1:
        raise DataError(
            f"There are no labels in {path} (got {', '.join(arrays) or 'nothing'}). Give an array `{LABELS}` [samples] "
            "beside the model's inputs; or compare outputs with the baseline's: `task=\"outputs\"`."
        )
    labels = arrays.pop(LABELS)
    wrong = [name for name, array in arrays.items() if array.ndim == 0 or len(array) != len(labels)]
    if wrong:
        raise DataError(
            f"The arrays in {path} hold other numbers of samples than there are labels (got {', '.join(wrong)}; wanted "
            f"{len(labels)}). Give as many of each."
        )
    for index, label in enumerate(labels[:samples].tolist()):
        yield _Sample(_slicer(arrays, index), label, f"sample {index + 1} of {path.name}")


def _slicer(arrays: Mapping[str, Array], index: int) -> Feeder:
    return lambda model: {name: array[index : index + 1] for name, array in arrays.items()}


def _scores(model: EvaluatedModel, sample: _Sample) -> Array:
    """The logits [1, classes] of one sample."""
    found = model.run(sample.feed(model), sample.where)
    rows = found[np.newaxis] if found.ndim == 1 else found
    if rows.ndim != 2 or len(rows) != 1 or rows.shape[1] < 2:
        raise ModelError(
            f"{model.session.name} scores no classes (got {model.output} {list(found.shape)} for one sample; "
            'wanted [1, classes], two classes or more). Evaluate it with `task="outputs"`.'
        )
    return rows


def _number(sample: _Sample, names: Mapping[str, int], classes: int) -> int:
    """The class that a label names or counts."""
    text = str(sample.label).strip()
    number = names.get(text)
    if number is None:
        number = int(text) if text.isdecimal() else -1
    if not 0 <= number < classes:
        known = f", or one of {', '.join(names)}" if names else ""
        raise DataError(
            f"This is no label of the model (in {sample.where}; got {sample.label!r}; wanted 0 to {classes - 1}"
            f"{known})."
        )
    return number


def _label_names(folder: Path) -> dict[str, int]:
    """Numbers of classes by their names, as the model's configuration knows them; labels that are numbers need none."""
    names = read_setting(folder, "config.json", "id2label")
    if not isinstance(names, dict):
        return {}
    return {str(name): int(number) for number, name in names.items() if str(number).isdecimal()}


def _fits(config: EvaluationConfig, signature: Signature | None) -> bool:
    labelled = config.has_table or (config.data is not None and config.data.suffix.lower() == ".npz")
    suited = labelled or (config.data is None and config.text is None)
    return suited and signature is not None and recognize(signature) == "classifier"


CLASSIFICATION = Task(
    name="classification",
    needs="samples with labels, with `data=FILE.csv` or `data=FILE.npz`",
    takes="data",
    fits=_fits,
    metrics=lambda config: (ACCURACY, LOSS, KL, TOP1),
    run=evaluate_classification,
)
