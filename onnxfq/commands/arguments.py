"""Arguments and options of the command line: types, names and help. What they mean is up to `Options`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from onnxfq.commands.config import read_settings
from onnxfq.evaluation.task_choice import TaskChoice
from onnxfq.input_files import FEED_FILES, RECORD_FILES, RUNNING_TEXT, listed
from onnxfq.providers import PROVIDERS


class ProviderChoice(StrEnum):
    """Values of --provider."""

    auto = "auto"
    vars().update({name: name for name in PROVIDERS})


class FormatChoice(StrEnum):
    """Values of --format."""

    matmulnbits = "matmulnbits"
    int8 = "int8"
    dgq = "dgq"
    qdq = "qdq"
    auto = "auto"


class ActivationChoice(StrEnum):
    """Values of --activations."""

    int8 = "int8"
    float = "float"


class OthersChoice(StrEnum):
    """Values of --others."""

    auto = "auto"
    stored8 = "stored8"
    stored4 = "stored4"
    float = "float"


class DtypeChoice(StrEnum):
    """Values of --dtype."""

    fp32 = "fp32"
    fp16 = "fp16"


_SYMMETRIC = [name for name, provider in PROVIDERS.items() if provider.prefers_symmetric]
_ARRAYS = [suffix for suffix in FEED_FILES if suffix != RUNNING_TEXT]

# `readable=False`: a file that cannot be read is no wrong usage; what reads it says so.
ModelArgument = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL|DIR", help="An ONNX file, or a folder that holds some.", show_default=False, readable=False
    ),
]
Output = Annotated[
    str | None,  # no Path, which would drop the slash behind a folder
    typer.Option(
        "-o",
        "--output",
        metavar="OUT|DIR/",
        help="What to write, or the folder to write it into.",
        show_default="MODEL.int4.onnx, DIR-int4",
    ),
]

# What to quantize to, and what of a model
FormatOption = Annotated[
    FormatChoice,
    typer.Option(
        "--format",
        help="matmulnbits: kernels for few bits, good for few rows at once. int8: products of int8, good for many. "
        "dgq: the same from 4 bits. qdq: DequantizeLinear, for other runtimes. auto: for each weight the fastest that "
        "loses little, or float.",
    ),
]
Bits = Annotated[int | None, typer.Option(help="Bits a weight: 2, 4 or 8.", show_default="4; int8: 8")]
BlockSize = Annotated[
    str | None,
    typer.Option(
        metavar="N|channel|tensor",
        help="Weights that share a scale: 16, 32, 64, 128, 256, or a word.",
        show_default="32; int8: channel",
    ),
]
Symmetric = Annotated[
    bool | None,
    typer.Option(
        "--symmetric/--asymmetric",
        help="Without or with zero points.",
        show_default=f"symmetric on {listed(_SYMMETRIC)} only",
    ),
]
Activations = Annotated[
    ActivationChoice | None,
    typer.Option(
        help="int8: the kernel rounds its inputs on the fly. float: it does not.", show_default=ActivationChoice.int8
    ),
]
Schemes = Annotated[
    list[str] | None,
    typer.Option(
        "--scheme",
        metavar="RE=NAME:VALUE,…",
        help="Another scheme for nodes whose name matches: lm_head=bits:8,block_size:32. Repeatable; the later wins.",
    ),
]
Embeddings = Annotated[
    str, typer.Option(metavar="4|8|float", help="Bits of embedding tables; float leaves them as they are.")
]
Others = Annotated[
    OthersChoice,
    typer.Option(
        help="Other large weights, such as a Conv's: small in the file, floats once loaded; auto: 8 bits where safe."
    ),
]
Algorithm = Annotated[
    str,
    typer.Option(
        metavar="NAME[:OPTION=VALUE,…]",
        help="auto, gptq, awq, hqq or rtn, with options: gptq:damping=0.02. auto is gptq with --calib, else hqq.",
    ),
]
ProviderOption = Annotated[ProviderChoice, typer.Option(help="Where the models run.")]
Include = Annotated[
    list[str] | None, typer.Option(metavar="RE", help="Quantize only nodes whose name matches. Repeatable.")
]
Exclude = Annotated[
    list[str] | None, typer.Option(metavar="RE", help="Leave nodes alone whose name matches. Repeatable.")
]
AllowSlow = Annotated[bool, typer.Option("--allow-slow", help="Write formats known to run slower than floating point.")]
ConstantInputs = Annotated[
    bool,
    typer.Option("--constant-inputs", help="Inputs with values of their own are constants, which no caller replaces."),
]

Unshare = Annotated[
    bool,
    typer.Option("--unshare", help="Nodes that share a weight each get a copy that is calibrated for them: larger."),
]

Layout = Annotated[
    str,
    typer.Option(
        metavar="source|transformers.js[:DTYPE]",
        help="Names and folders of the output: the source's, or those of transformers.js, a file for each data type.",
    ),
]

# Inputs
Calib = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|DIR|self",
        help=f"Inputs to calibrate with, some held back to compare on: {listed(FEED_FILES)}, a folder of arrays, self.",
        show_default="no calibration; made up for the comparison",
    ),
]
Tokenizer = Annotated[
    Path | None,
    typer.Option(metavar="DIR", readable=False, help="Folder of tokenizer.json.", show_default="the model's folder"),
]
Samples = Annotated[int, typer.Option(help="How many samples to use at most.")]
SeqLen = Annotated[int, typer.Option(help="Longest sample, in tokens.")]
Seed = Annotated[int, typer.Option(help="Of everything that is made up.")]

# The comparison
MaxError = Annotated[
    float | None, typer.Option(help="Gate: largest relative MSE over the floating outputs.", show_default=False)
]
EvalData = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE|DIR",
        readable=False,
        help="Inputs to compare on, in the forms of --calib.",
        show_default="samples of --calib that are held back from calibration",
    ),
]
EvalText = Annotated[
    Path | None,
    typer.Option(
        metavar=f"FILE{RUNNING_TEXT}",
        readable=False,
        help="Running text to compare a language model with its original on, by perplexity too.",
        show_default="with --max-ppl-increase what the models are compared on",
    ),
]
MinSpeedup = Annotated[
    float | None,
    typer.Option(help="Gate: smallest speed-up over the original; its lower bound counts.", show_default=False),
]
NoValidate = Annotated[bool, typer.Option("--no-validate", help="Leave out the comparison with the original.")]
ReportFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.html|.json",
        readable=False,
        help="Write the report to a file too, or as a page.",
        show_default=False,
    ),
]
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
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout instead of the table.")]

# Evaluation
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
MaxPplIncrease = Annotated[
    str | None,
    typer.Option(metavar="X|X%", help="Gate: perplexity above the baseline's, at most.", show_default=False),
]
MaxKl = Annotated[str | None, typer.Option(metavar="X", help="Gate: largest mean KL, in nats.", show_default=False)]
MinCosine = Annotated[
    str | None,
    typer.Option(metavar="X", help="Gate: smallest mean cosine of sentences or outputs.", show_default=False),
]
MaxDrop = Annotated[
    str | None,
    typer.Option(
        metavar="X|X%", help="Gate: accuracy, Spearman, BLEU, chrF below the baseline's, at most.", show_default=False
    ),
]

# Long runs
WorkDir = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        readable=False,
        help="Where finished work is kept for --resume.",
        show_default="OUT.work, until the run is finished",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where a run that was cut off stopped.")]
Memory = Annotated[
    str,
    typer.Option(
        metavar="SIZE",
        help="For what is kept between stages (more goes to disk) and for models in the comparison (larger ones run "
        "piece by piece). 500MB, 1.5GiB, …",
    ),
]
Threads = Annotated[int | None, typer.Option(help="Threads to use.", show_default="all")]
ExecutorOption = Annotated[
    str | None,
    typer.Option(
        "--executor",
        metavar="dask:ADDRESS",
        help="Have the workers of a dask scheduler do what they can: dask:tcp://HOST:8786.",
        show_default="everything in this process",
    ),
]

# Runs as such
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Show errors only.")]
Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", help="Show every target, and the sessions and segments that are run.")
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.toml|.json",
        readable=False,
        is_eager=True,
        callback=read_settings,
        help="Options by their names; those on the command line beat it.",
        show_default=False,
    ),
]
SaveConfig = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.toml|.json",
        readable=False,
        help="Write the options of this run, for --config.",
        show_default=False,
    ),
]

# Export
CheckpointArgument = Annotated[
    str, typer.Argument(metavar="MODEL_ID|DIR", help="A name on the Hugging Face hub, or a folder.", show_default=False)
]
ExportFolder = Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.", readable=False)]
ExportTask = Annotated[str, typer.Option(help="What the model is for, such as text-generation-with-past.")]
DtypeOption = Annotated[DtypeChoice, typer.Option(help="Type of the weights.")]
