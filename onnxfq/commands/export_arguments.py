"""Arguments and options of `export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class DtypeChoice(StrEnum):
    """Values of --dtype."""

    fp32 = "fp32"
    fp16 = "fp16"


CheckpointArgument = Annotated[
    str, typer.Argument(metavar="MODEL_ID|DIR", help="A name on the Hugging Face hub, or a folder.", show_default=False)
]
ExportFolder = Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.", readable=False)]
ExportTask = Annotated[str, typer.Option(help="What the model is for, such as text-generation-with-past.")]
DtypeOption = Annotated[DtypeChoice, typer.Option(help="Type of the weights.")]
