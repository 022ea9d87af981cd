"""Arguments and options of `quantize`, most of which `inspect` has too. What they mean is up to `Options`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from onnxfq.commands.config import read_settings
from onnxfq.input_files import FEED_FILES, RUNNING_TEXT, listed
from onnxfq.providers import PROVIDERS
from onnxfq.usage import USAGES
from onnxfq.weight_formats import FORMATS, USUAL_FORMAT


class FormatChoice(StrEnum):
    """Values of --format."""

    matmulnbits = USUAL_FORMAT
    vars().update({name: name for name in FORMATS if name != USUAL_FORMAT})
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


_SYMMETRIC = [name for name, provider in PROVIDERS.items() if provider.prefers_symmetric]
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

Tune = Annotated[
    int,
    typer.Option(
        metavar="PASSES",
        help="Go through the --calib samples so often once more, and tune scales, biases and normalization layers by "
        "gradients: less error of language models, most at 2 bits. 2 gives most of that; the model must fit into "
        "--memory several times.",
    ),
]
TargetSize = Annotated[
    str | None,
    typer.Option(
        "--target-size",
        metavar="X%|SIZE|smallest",
        help="Mix bits within a size, 25% of the source or 2.1GB, or into the smallest file that keeps --max-kl or "
        "--max-error: by what each weight does to the outputs. Not worse than one scheme of that size on the samples "
        "held back.",
        show_default=False,
    ),
]

# What the output is for
TargetOption = Annotated[
    str,
    typer.Option(metavar="auto|avx2|vnni|arm|cuda|webgpu|portable", help="What the output is for. auto: this machine."),
]
WorkloadOption = Annotated[
    str | None,
    typer.Option(
        "--workload",
        metavar=f"{'|'.join(USAGES)}|N,…",
        help="Rows of activations that a weight meets at once, by which speed is judged.",
        show_default="as in the data, else by the kind of model",
    ),
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
Samples = Annotated[
    int | None,
    typer.Option(
        help="How many samples to use at most.",
        show_default="1024 that calibrate, of 65536 tokens; 128 for anything else",
    ),
]
SeqLen = Annotated[int, typer.Option(help="Longest sample, in tokens.")]
Seed = Annotated[int, typer.Option(help="Of everything that is made up.")]

# The comparison
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
ExecutorOption = Annotated[
    str | None,
    typer.Option(
        "--executor",
        metavar="dask:ADDRESS",
        help="Have the workers of a dask scheduler do what they can: dask:tcp://HOST:8786.",
        show_default="everything in this process",
    ),
]

# Configuration
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
