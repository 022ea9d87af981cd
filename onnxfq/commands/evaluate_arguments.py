"""Arguments and options of `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxfq.evaluation.task_choice import TaskChoice
from onnxfq.input_files import FEED_FILES, RECORD_FILES, RUNNING_TEXT, listed

_ARRAYS = [suffix for suffix in FEED_FILES if suffix != RUNNING_TEXT]
Baseline = Annotated[
    Path | None,
    typer.Option(
        metavar="MODEL|DIR", readable=False, help="The model to compare with, such as the original.", show_default=False
    ),
]
TaskOption = Annotated[TaskChoice, typer.Option(help="What to measure. auto tells it from the model and the data.")]
TextFile = Annotated[
    Path | None,
    typer.Option(
        "--text",
        metavar=f"FILE{RUNNING_TEXT}",
        readable=False,
        help="Running text, for the perplexity.",
        show_default=False,
    ),
]
DataFile = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="FILE",
        readable=False,
        help="Passages (LAMBADA), pairs of sentences with scores, samples with labels, or texts with translations: "
        f"{listed(RECORD_FILES)}; inputs of any model: {listed(_ARRAYS)}.",
        show_default=False,
    ),
]
AtMost = Annotated[
    int | None, typer.Option("--samples", help="How many windows, pairs, … to use at most.", show_default="all")
]
Window = Annotated[int, typer.Option("--seq-len", help="Tokens of a window of text, and of the longest sample.")]
MaxDrop = Annotated[
    str | None,
    typer.Option(
        metavar="X|X%", help="Gate: accuracy, Spearman, BLEU, chrF below the baseline's, at most.", show_default=False
    ),
]
