"""The names of the tasks, for the command line: `onnxfq.evaluation.tasks` imports too much to wait for at its start."""

from __future__ import annotations

from enum import StrEnum


class TaskChoice(StrEnum):
    """A task, or the one that suits the model and the data."""

    auto = "auto"
    language = "language"
    sts = "sts"
    classification = "classification"
    generation = "generation"
    outputs = "outputs"
