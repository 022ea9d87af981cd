"""The tasks of an evaluation, one value a file, and the choice among them."""

from __future__ import annotations

from pathlib import Path

from onnxfq.errors import ModelError, UsageError
from onnxfq.evaluation.evaluation_config import EvaluationConfig
from onnxfq.evaluation.tasks.classification import CLASSIFICATION
from onnxfq.evaluation.tasks.generation import GENERATION
from onnxfq.evaluation.tasks.language import LANGUAGE
from onnxfq.evaluation.tasks.outputs import OUTPUTS
from onnxfq.evaluation.tasks.sts import STS
from onnxfq.evaluation.tasks.task import Task
from onnxfq.graph import Graph
from onnxfq.model_files import is_folder

# Of those that suit a model and its data, the first is chosen; their names stand in `TaskChoice` too.
TASKS: tuple[Task, ...] = (LANGUAGE, STS, CLASSIFICATION, GENERATION, OUTPUTS)
AUTO = "auto"


def check_task_name(name: str) -> None:
    """Refuse what is no task.

    Raises:
        UsageError: there is no such task.
    """
    names = [AUTO, *(task.name for task in TASKS)]
    if name not in names:
        raise UsageError(f"Unknown task (got task={name!r}). Use {', '.join(names)}.")


def choose_task(name: str, config: EvaluationConfig) -> Task:
    """The task of that name, or for "auto" the first that suits the model and the data.

    Raises:
        UsageError: there is no such task, or the data that it needs were not given.
        ModelError: a model is a file where the task needs a folder, or the other way round.
    """
    check_task_name(name)
    task = _suited(config) if name == AUTO else next(task for task in TASKS if task.name == name)
    task.check_data(config)
    for path in (config.model, config.baseline):
        if path is not None:
            _check_layout(task, path)
    return task


def _suited(config: EvaluationConfig) -> Task:
    signature = None if is_folder(config.model) else Graph.load(config.model).signature
    return next(task for task in TASKS if task.fits(config, signature))


def _check_layout(task: Task, path: Path) -> None:
    if task.folder and not is_folder(path):
        raise ModelError(
            f"'{path}' is one file. The task {task.name} needs a folder with an encoder and a decoder, as optimum "
            "exports them."
        )
    if not task.folder and is_folder(path):
        names = " or ".join(f'`task="{task.name}"`' for task in TASKS if task.folder)
        raise ModelError(
            f"'{path}' holds an encoder and a decoder. Evaluate it with {names}, or name one of its files."
        )
