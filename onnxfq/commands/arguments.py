"""Arguments and options that several verbs have, and those of `report` and `doctor`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from onnxfq.providers import PROVIDERS


class ProviderChoice(StrEnum):
    """Values of --provider."""

    auto = "auto"
    vars().update({name: name for name in PROVIDERS})


# `readable=False`: a file that cannot be read is no wrong usage; what reads it says so.
ModelArgument = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL|DIR", help="An ONNX file, or a folder that holds some.", show_default=False, readable=False
    ),
]
Tokenizer = Annotated[
    Path | None,
    typer.Option(metavar="DIR", readable=False, help="Folder of tokenizer.json.", show_default="the model's folder"),
]
ProviderOption = Annotated[ProviderChoice, typer.Option(help="Where the models run.")]
Threads = Annotated[int | None, typer.Option(help="Threads to use.", show_default="all")]

# Gates
MaxError = Annotated[
    float | None, typer.Option(help="Gate: largest relative MSE over the floating outputs.", show_default=False)
]
MaxKl = Annotated[str | None, typer.Option(metavar="X", help="Gate: largest mean KL, in nats.", show_default=False)]
MinCosine = Annotated[
    str | None,
    typer.Option(metavar="X", help="Gate: smallest mean cosine of sentences or outputs.", show_default=False),
]
MaxPplIncrease = Annotated[
    str | None,
    typer.Option(metavar="X|X%", help="Gate: perplexity above the baseline's, at most.", show_default=False),
]
MinSpeedup = Annotated[
    float | None,
    typer.Option(help="Gate: smallest speed-up over the original; its lower bound counts.", show_default=False),
]

# What is shown
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout instead of the table.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Show errors only.")]
Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", help="Show every target, and the sessions and segments that are run.")
]

# Reports
ReportsArgument = Annotated[
    list[Path],
    typer.Argument(metavar="REPORT.json…", help="One report to show, or several to compare.", readable=False),
]
ReportOutput = Annotated[
    Path | None,
    typer.Option(
        "-o", "--output", metavar="FILE.html|.json", readable=False, help="What to write.", show_default=False
    ),
]

# Doctor
Measure = Annotated[
    bool,
    typer.Option("--measure", help="Time all formats here, about a minute, and go by that from then on."),
]
