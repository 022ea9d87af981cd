"""The table of tasks: its names, what every task says of itself, and which one suits a model and its data."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import onnxfq
from onnxfq import ModelError, UsageError
from onnxfq.evaluation.evaluation_config import EvaluationConfig
from onnxfq.evaluation.task_choice import TaskChoice
from onnxfq.evaluation.tasks import TASKS, check_task_name, choose_task
from onnxfq.evaluation.tasks.task import Task
from onnxfq.progress import silent
from support.evaluated import Seq2Seq, bigram, classifier, encoder, table, words, write_lines, write_tokenizer

Maker = Callable[[Path, float], Path]
Records = list[dict[str, object]]

LAST_WORDS: Records = [{"text": "w1 w2"}, {"text": "w3 w4 w5"}]
PAIRS: Records = [{"sentence1": words(3, i), "sentence2": words(2, i + 9), "score": i} for i in range(3)]
LABELS: Records = [{"text": words(3, i), "label": i % 3} for i in range(3)]
TRANSLATIONS: Records = [{"source": words(3, i), "target": words(3, i + 9)} for i in range(2)]


def language(folder: Path, noise: float) -> Path:
    return bigram(folder / f"{noise}.onnx", table(noise=noise))


def sentences(folder: Path, noise: float) -> Path:
    return encoder(folder / f"{noise}.onnx", table(columns=6, noise=noise))


def classes(folder: Path, noise: float) -> Path:
    return classifier(folder / f"{noise}.onnx", table(columns=3, noise=noise))


def translator(folder: Path, noise: float) -> Path:
    return Seq2Seq.random(0, noise=noise).write(folder / f"{noise}", "two")


MODELS: dict[str, tuple[Maker, Records]] = {
    "language": (language, LAST_WORDS),
    "sts": (sentences, PAIRS),
    "classification": (classes, LABELS),
    "generation": (translator, TRANSLATIONS),
    "outputs": (language, LAST_WORDS),
}


@pytest.fixture(params=TASKS, ids=lambda task: task.name)
def task(request: pytest.FixtureRequest) -> Task:
    found: Task = request.param
    return found


@pytest.fixture
def config(task: Task, tmp_path: Path) -> EvaluationConfig:
    """A model and a baseline for a task, with all the data that it takes."""
    make, records = MODELS[task.name]
    folder = write_tokenizer(tmp_path)
    (folder / "text.txt").write_text(words(40))
    data = write_lines(folder / "data.jsonl", *records)
    text = folder / "text.txt" if task.takes == "data and text" else None
    return EvaluationConfig(make(folder, 0.2), make(folder, 0.0), text, data, folder, 8, None, "cpu", None, silent)


def test_the_command_line_knows_the_tasks_by_name() -> None:
    assert [*TaskChoice] == ["auto", *(task.name for task in TASKS)]
    assert {choice.name for choice in TaskChoice} == {choice.value for choice in TaskChoice}


def test_the_names_alone_load_nothing_heavy() -> None:
    code = (
        "import sys, onnxfq.evaluation.task_choice; "
        "print(sorted({'numpy', 'numba', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_task_is_tested_here() -> None:
    assert list(MODELS) == [task.name for task in TASKS]


def test_a_task_measures_what_it_says(task: Task, config: EvaluationConfig) -> None:
    if task.name == "generation":
        pytest.importorskip("sacrebleu", reason="pip install 'onnxfq[evaluate]'")
    metrics, outputs = task.run(config)
    better = {metric.name: metric.higher_is_better for metric in metrics}
    said = {metric.name: metric.higher_is_better for metric in task.metrics(config)}
    assert better == said
    assert all(metric.value is None for metric in task.metrics(config))
    assert all(metric.value is not None for metric in metrics)
    assert bool(outputs) is (task.name == "outputs")


def test_only_metrics_that_compare_two_models_have_no_better_way(task: Task, config: EvaluationConfig) -> None:
    if task.name == "generation":
        pytest.importorskip("sacrebleu", reason="pip install 'onnxfq[evaluate]'")
    for metric in task.run(config)[0]:
        assert (metric.higher_is_better is None) is (metric.baseline is None)


def test_a_task_is_found_by_its_name_and_by_what_suits_it(task: Task, config: EvaluationConfig) -> None:
    assert choose_task(task.name, config) is task
    if task.name == "outputs":
        config = replace(config, data=config.data and config.data.with_suffix(".npz"))
    assert choose_task("auto", config) is task


def test_a_task_without_data_says_what_it_needs(task: Task, config: EvaluationConfig) -> None:
    with pytest.raises(UsageError) as caught:
        task.check_data(replace(config, data=None, text=None))
    needs = f"There is nothing to evaluate the model on. The task {task.name} needs {task.needs}."
    assert str(caught.value) == needs
    text = replace(config, data=None, text=Path("text.txt"))
    if task.takes == "data":
        with pytest.raises(UsageError, match="nothing to evaluate the model on"):
            task.check_data(text)
    else:
        task.check_data(text)


def test_only_a_task_that_takes_both_is_given_both(task: Task, config: EvaluationConfig) -> None:
    both = replace(config, data=Path("data.csv"), text=Path("text.txt"))
    if task.takes == "data and text":
        task.check_data(both)
    else:
        with pytest.raises(UsageError, match=rf"The task {task.name} takes either `text` or `data` \(got both\)"):
            task.check_data(both)


def test_files_and_folders_are_told_apart(task: Task, config: EvaluationConfig, tmp_path: Path) -> None:
    other = language(tmp_path, 0.5) if task.folder else translator(tmp_path, 0.5)
    message = "is one file. The task generation" if task.folder else 'Evaluate it with `task="generation"`, or name one'
    for changed in (replace(config, model=other), replace(config, baseline=other)):
        with pytest.raises(ModelError, match=message):
            choose_task(task.name, changed)


def test_notes_are_told_with_what_was_measured(task: Task, config: EvaluationConfig) -> None:
    if task.name == "generation":
        pytest.importorskip("sacrebleu", reason="pip install 'onnxfq[evaluate]'")
    found = onnxfq.evaluate(
        config.model, config.baseline, data=config.data, text=config.text, task=task.name, seq_len=8, provider="cpu"
    )
    assert (found.task, found.warnings) == (task.name, task.notes)


def test_other_names_are_refused() -> None:
    check_task_name("auto")
    with pytest.raises(UsageError, match=r"got task='poetry'.* Use auto, language, sts, .* outputs\.$"):
        check_task_name("poetry")
