"""The command line: verbs → public API → exit code. The only place that prints."""

from __future__ import annotations

import functools
import json
import signal
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from onnxfq.errors import OnnxfqError

if TYPE_CHECKING:
    from onnxfq.pipeline import Options
    from onnxfq.report import Report

INTERRUPTED = 130

app = typer.Typer(
    name="onnxfq",
    help="Make exported ONNX models small and fast without making them worse, and prove it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class ProviderChoice(StrEnum):
    """Values of --provider."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class ActivationChoice(StrEnum):
    """Values of --activations."""

    int8 = "int8"
    float = "float"


ModelArgument = Annotated[
    Path, typer.Argument(metavar="MODEL|DIR", help="An ONNX file, or a folder that holds some.", show_default=False)
]
Bits = Annotated[int, typer.Option(help="Bits a weight: 2, 4 or 8.")]
BlockSize = Annotated[
    str, typer.Option(metavar="N|channel|tensor", help="Weights that share a scale: 16, 32, 64, 128, 256, or a word.")
]
Symmetric = Annotated[
    bool | None,
    typer.Option(
        "--symmetric/--asymmetric", help="Without or with zero points.", show_default="symmetric on cuda only"
    ),
]
Activations = Annotated[
    ActivationChoice, typer.Option(help="int8: the kernel rounds its inputs on the fly (faster). float: it does not.")
]
Algorithm = Annotated[str, typer.Option(help="auto, rtn or hqq.")]
ProviderOption = Annotated[ProviderChoice, typer.Option(help="Where the models run.")]
Include = Annotated[
    list[str] | None, typer.Option(metavar="RE", help="Quantise only nodes whose name matches. Repeatable.")
]
Exclude = Annotated[
    list[str] | None, typer.Option(metavar="RE", help="Leave nodes alone whose name matches. Repeatable.")
]
AllowSlow = Annotated[bool, typer.Option("--allow-slow", help="Write formats that run slower than floating point.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout instead of the table.")]


def _reported(command: Callable[..., None]) -> Callable[..., None]:
    """Turn deliberate errors and interruptions into a message and an exit code."""

    @functools.wraps(command)
    def wrapped(**arguments: Any) -> None:
        console = Console(stderr=True)
        try:
            command(**arguments)
        except OnnxfqError as error:
            console.print("Error: ", style="bold red", end="")
            console.print(str(error), markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            console.print("Interrupted: nothing was left behind.", style="bold red")
            raise typer.Exit(INTERRUPTED) from error

    return wrapped


@app.command()
@_reported
def quantize(
    model: ModelArgument,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="OUT", help="What to write.", show_default="MODEL.int4.onnx, DIR-int4"),
    ] = None,
    bits: Bits = 4,
    block_size: BlockSize = "32",
    symmetric: Symmetric = None,
    activations: Activations = ActivationChoice.int8,
    algorithm: Algorithm = "auto",
    calib: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR",
            help="Inputs for the comparison: .npz, a folder of them, .jsonl or .txt.",
            show_default="made up from the model's own signature",
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of tokenizer.json.", show_default="the model's folder")
    ] = None,
    samples: Annotated[int, typer.Option(help="How many samples to use at most.")] = 128,
    seq_len: Annotated[int, typer.Option(help="Longest sample, in tokens.")] = 512,
    seed: Annotated[int, typer.Option(help="Of everything that is made up.")] = 0,
    provider: ProviderOption = ProviderChoice.auto,
    include: Include = None,
    exclude: Exclude = None,
    allow_slow: AllowSlow = False,
    max_error: Annotated[
        float | None, typer.Option(help="Gate: largest relative MSE over the floating outputs.", show_default=False)
    ] = None,
    min_speedup: Annotated[
        float | None, typer.Option(help="Gate: smallest speed-up over the original.", show_default=False)
    ] = None,
    no_validate: Annotated[
        bool, typer.Option("--no-validate", help="Leave out the comparison with the original.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Write the report to a file too.", show_default=False)
    ] = None,
    as_json: JsonFlag = False,
    threads: Annotated[int | None, typer.Option(help="Threads to use.", show_default="all")] = None,
) -> None:
    """Quantise a model, verify the written file, and compare it with the original."""
    from onnxfq import pipeline
    from onnxfq.report import check_report_path

    if report:
        check_report_path(report)
    options = _options(
        bits, block_size, symmetric, activations, algorithm, provider, include, exclude, allow_slow, calib=calib,
        tokenizer=tokenizer, samples=samples, seq_len=seq_len, seed=seed, max_error=max_error, min_speedup=min_speedup,
        validate=not no_validate, threads=threads,
    )  # fmt: skip
    console = Console(stderr=True)
    with _progress(console) as told:
        result = pipeline.quantize(model, output, options=options, progress=told)
    _finish(result, console, report, as_json=as_json)


@app.command()
@_reported
def inspect(
    model: ModelArgument,
    bits: Bits = 4,
    block_size: BlockSize = "32",
    symmetric: Symmetric = None,
    activations: Activations = ActivationChoice.int8,
    algorithm: Algorithm = "auto",
    provider: ProviderOption = ProviderChoice.auto,
    include: Include = None,
    exclude: Exclude = None,
    allow_slow: AllowSlow = False,
    as_json: JsonFlag = False,
) -> None:
    """Show what quantize would do: targets, what is skipped and why, and the size. Changes nothing."""
    from onnxfq import pipeline
    from onnxfq.tables import show_inspection

    options = _options(
        bits, block_size, symmetric, activations, algorithm, provider, include, exclude, allow_slow
    )  # fmt: skip
    result = pipeline.inspect(model, options=options)
    if as_json:
        _print_json(result.to_json())
    else:
        show_inspection(result, Console(stderr=True))


@app.command()
@_reported
def doctor(as_json: JsonFlag = False) -> None:
    """Show providers, kernels, and which formats are fast here."""
    from onnxfq import doctor as facts
    from onnxfq.tables import show_doctor

    environment, kernels = dict(facts.environment()), facts.kernel_rows()
    if as_json:
        _print_json({**environment, "kernels": [dict(zip(facts.COLUMNS, row, strict=True)) for row in kernels]})
    else:
        show_doctor(environment, facts.COLUMNS, kernels, Console(stderr=True))


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        from onnxfq.version import VERSION

        typer.echo(VERSION)
        raise typer.Exit


def _options(
    bits: int,
    block_size: str,
    symmetric: bool | None,
    activations: ActivationChoice,
    algorithm: str,
    provider: ProviderChoice,
    include: list[str] | None,
    exclude: list[str] | None,
    allow_slow: bool,
    **others: Any,
) -> Options:
    from onnxfq.pipeline import Options
    from onnxfq.scheme import Scheme
    from onnxfq.session import resolve_provider

    resolved = resolve_provider(provider.value)
    size: Any = int(block_size) if block_size.lstrip("-").isdigit() else block_size
    scheme = Scheme(bits, size, resolved == "cuda" if symmetric is None else symmetric, activations.value)
    return Options(
        scheme=scheme,
        algorithm=algorithm,
        provider=resolved,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        allow_slow=allow_slow,
        **others,
    )


def _progress(console: Console) -> Any:
    from onnxfq.progress import progress

    return progress(console)


def _finish(result: Report, console: Console, report: Path | None, *, as_json: bool) -> NoReturn:
    """Show the result; exit with 1 when a gate failed."""
    from onnxfq.tables import show_report

    if report:
        result.save(report)
    if as_json:
        _print_json(result.to_json())
    else:
        show_report(result, console)
    raise typer.Exit(0 if result.passed else 1)


def _print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value, indent=1, allow_nan=False) + "\n")


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command line; returns the exit code."""
    try:
        app(arguments, prog_name="onnxfq")
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
