"""The tasks of an evaluation: which one suits a model, what it needs, and who judges it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from onnxfq.errors import ModelError, UsageError
from onnxfq.evaluation.evaluation_config import EvaluationConfig
from onnxfq.evaluation.tasks.classification import evaluate_classification
from onnxfq.evaluation.tasks.generation import evaluate_generation
from onnxfq.evaluation.tasks.lambada import evaluate_lambada
from onnxfq.evaluation.tasks.sts import evaluate_sts
from onnxfq.feeds import Feed, load_feeds, read_setting
from onnxfq.feeds.model_kind import Task, class_output, embedding_output, language_output, recognise
from onnxfq.feeds.records import SUFFIXES
from onnxfq.graph import Graph
from onnxfq.metrics.metric import Metric
from onnxfq.metrics.output_error import OutputAccuracy, compare, worst_metrics
from onnxfq.metrics.perplexity import evaluate_language
from onnxfq.metrics.perplexity_text import read_running_text
from onnxfq.model_files import is_folder

TASKS: tuple[str, ...] = ("auto", "language", "sts", "classification", "generation", "outputs")

Found = tuple[list[Metric], list[OutputAccuracy]]


def _judge_language(asked: EvaluationConfig) -> Found:
    model, baseline = asked.subjects(language_output)
    figures: list[Metric] = []
    if asked.text is not None:
        text = read_running_text(asked.text)
        figures += evaluate_language(
            model, baseline, text, samples=asked.samples, tell=asked.tell("perplexity"), name=asked.text.name
        )
    if asked.data is not None:
        figures += evaluate_lambada(model, baseline, asked.data, samples=asked.samples, tell=asked.tell("last words"))
    return figures, []


def _judge_sentences(asked: EvaluationConfig) -> Found:
    model, baseline = asked.subjects(embedding_output)
    tell = asked.tell("pairs of sentences")
    return evaluate_sts(model, baseline, _data(asked), samples=asked.samples, tell=tell), []


def _judge_classes(asked: EvaluationConfig) -> Found:
    model, baseline = asked.subjects(class_output)
    names = _label_names(asked)
    tell = asked.tell("classification")
    return evaluate_classification(model, baseline, _data(asked), names, samples=asked.samples, tell=tell), []


def _judge_translations(asked: EvaluationConfig) -> Found:
    model, baseline = asked.translators()
    return evaluate_generation(model, baseline, _data(asked), samples=asked.samples, tell=asked.tell("generation")), []


def _judge_outputs(asked: EvaluationConfig) -> Found:
    if asked.baseline is None:
        raise UsageError(
            "The error of a model's outputs is that against another model. Name it with `baseline`, or choose a `task` "
            "that suits the model."
        )
    path = asked.data or asked.text
    if path is None:
        raise UsageError("There is nothing to run the models on. Give inputs with `data` or text with `text`.")
    asked.progress("loading", 0, 1)
    baseline, model = asked.session(asked.baseline), asked.session(asked.model)
    samples = asked.samples or sys.maxsize
    signature = Graph.load(asked.baseline).signature
    feeds = load_feeds(path, signature, tokenizer=asked.tokenizer, samples=samples, seq_len=asked.seq_len)
    outputs = compare(baseline, model, _counted(list(feeds), asked.tell("outputs")))
    return worst_metrics(outputs, len(feeds)), outputs


def _counted(feeds: list[Feed], tell: Callable[[int, int], None]) -> Iterator[Feed]:
    for number, feed in enumerate(feeds):
        tell(number, len(feeds))
        yield feed


JUDGES: dict[Task, Callable[[EvaluationConfig], Found]] = {
    "language": _judge_language,
    "sts": _judge_sentences,
    "classification": _judge_classes,
    "generation": _judge_translations,
    "outputs": _judge_outputs,
}
MEASURED: dict[Task, Callable[[EvaluationConfig], list[str]]] = {
    "language": lambda asked: (
        ["perplexity", "kl", "top1"] * (asked.text is not None) + ["lambada_accuracy"] * (asked.data is not None)
    ),
    "sts": lambda asked: ["spearman", "cosine"],
    "classification": lambda asked: ["accuracy", "loss", "kl", "top1"],
    "generation": lambda asked: ["bleu", "chrf", "same_text"],
    "outputs": lambda asked: ["relative_mse", "cosine", "kl", "top1"],
}


def choose_task(task: str, asked: EvaluationConfig) -> Task:
    """The task that was asked for, or the one that the model and the data speak of.

    Raises:
        UsageError: the data that it needs were not given.
        ModelError: a model is a file where the task needs a folder, or the other way round.
    """
    chosen = task if task != "auto" else _recognised(asked)
    for name in JUDGES:
        if name == chosen:
            _refuse_unsuitable(name, asked)
            return name
    raise UsageError(f"Unknown task (got task={task!r}). Use {', '.join(TASKS)}.")


def _recognised(asked: EvaluationConfig) -> Task:
    if is_folder(asked.model):
        return "generation"
    kind = recognise(Graph.load(asked.model).signature)
    table = asked.data is not None and asked.data.suffix.lower() in SUFFIXES
    labelled = table or (asked.data is not None and asked.data.suffix.lower() == ".npz")
    if kind == "language" and (asked.text is not None or table or asked.data is None):
        return "language"
    if kind == "sentences" and (table or (asked.data is None and asked.text is None)):
        return "sts"
    if kind == "classifier" and (labelled or (asked.data is None and asked.text is None)):
        return "classification"
    return "outputs"


_NEEDS: dict[Task, str] = {
    "language": "running text with `text=FILE.txt` for its perplexity, passages with `data=FILE.jsonl` for LAMBADA",
    "sts": "pairs of sentences with their scores, with `data=FILE.csv`",
    "classification": "samples with labels, with `data=FILE.csv` or `data=FILE.npz`",
    "generation": "texts with what is to become of them, with `data=FILE.jsonl`",
    "outputs": "inputs with `data=FILE.npz` or `data=FILE.jsonl`, or text with `text=FILE.txt`",
}


def _refuse_unsuitable(task: Task, asked: EvaluationConfig) -> None:
    both = task == "language"
    if asked.data is None and (asked.text is None or task not in ("language", "outputs")):
        raise UsageError(f"There is nothing to evaluate the model on. The task {task} needs {_NEEDS[task]}.")
    if asked.text is not None and asked.data is not None and not both:
        raise UsageError(f"The task {task} takes either `text` or `data` (got both). It needs {_NEEDS[task]}.")
    for path in (asked.model, asked.baseline):
        if path is not None:
            _refuse_other_layout(task, path)


def _refuse_other_layout(task: Task, path: Path) -> None:
    if task == "generation" and not is_folder(path):
        raise ModelError(
            f"'{path}' is one file. The task generation needs a folder with an encoder and a decoder, as optimum "
            "exports them."
        )
    if task != "generation" and is_folder(path):
        raise ModelError(
            f"'{path}' holds an encoder and a decoder. "
            'Evaluate it with `task="generation"`, or name one of its files.'
        )


def _data(asked: EvaluationConfig) -> Path:
    if asked.data is None:
        raise UsageError("There is nothing to evaluate the model on. Give it with `data=FILE`.")
    return asked.data


def _label_names(asked: EvaluationConfig) -> dict[str, int]:
    """Numbers of classes by their names, as the model's configuration knows them."""
    names = read_setting(asked.tokenizer, "config.json", "id2label")
    if not isinstance(names, dict):
        return {}
    return {str(name): int(number) for number, name in names.items() if str(number).isdecimal()}


def warnings_of(task: Task, asked: EvaluationConfig) -> Iterator[str]:
    """What to know about the figures of a task."""
    if asked.baseline is None:
        yield "Compared with nothing: name the model before quantization with `baseline`."
    if task == "sts":
        yield "A sentence is the mean of its tokens, unless the model itself gives a vector for it."
    if task == "generation":
        yield "Texts were written greedily, without the beams that the model's configuration may ask for."
