"""Arguments and options of `benchmark`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class ClockChoice(StrEnum):
    """Values of --clock."""

    wall = "wall"
    processor = "processor"


class OnlyChoice(StrEnum):
    """Values of --only."""

    all = "all"
    prefill = "prefill"
    decode = "decode"


Baselines = Annotated[
    list[Path] | None,
    typer.Option(
        "--baseline",
        metavar="MODEL|DIR",
        readable=False,
        help="The model to compare with, such as the original in single or half precision. Repeatable.",
        show_default=False,
    ),
]
ClockOption = Annotated[
    ClockChoice,
    typer.Option(
        "--clock",
        help="wall: what a user waits. processor: how long one thread was on a processor, whatever else runs.",
    ),
]
Only = Annotated[OnlyChoice, typer.Option(help="Leave out the other kind of runs.")]
Lengths = Annotated[
    str | None,
    typer.Option(metavar="N,…", help="Tokens of prompts and inputs.", show_default="128,512, as far as the model goes"),
]
Batches = Annotated[str, typer.Option(metavar="N,…", help="Rows at once.")]
Appended = Annotated[int, typer.Option("--tokens", help="Tokens that decoding appends to a prompt.")]
Seconds = Annotated[float, typer.Option(help="At most for a case; it ends when speed-ups are known within 1.5 %.")]
Loads = Annotated[int, typer.Option(help="Processes in which each model is loaded, for load time and memory.")]
Cpus = Annotated[
    str | None,
    typer.Option(metavar="N,N-N,…", help="Processors to run on, a thread each (Linux).", show_default="all"),
]
