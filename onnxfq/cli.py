"""The command line: verbs → public API → exit code. The only place that prints."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, ParamSpec

import typer
from rich.console import Console

from onnxfq.arguments import (
    ActivationChoice,
    Activations,
    Algorithm,
    AllowSlow,
    Bits,
    BlockSize,
    Calib,
    Exclude,
    Include,
    JsonFlag,
    MaxError,
    Memory,
    MinSpeedup,
    ModelArgument,
    NoValidate,
    Output,
    ProviderChoice,
    ProviderOption,
    ReportFile,
    Resume,
    Samples,
    Seed,
    SeqLen,
    Symmetric,
    Threads,
    Tokenizer,
    WorkDir,
)
from onnxfq.errors import OnnxfqError, OutputError
from onnxfq.terminal import Lasting, occupy_standard_streams, one_line, settle

if TYPE_CHECKING:
    from onnxfq.report import Report

GATE_FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="onnxfq",
    help="Make exported ONNX models small and fast without making them worse, and prove it.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


Arguments = ParamSpec("Arguments")


def _reported(command: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Turn deliberate errors and interruptions into a message and an exit code."""

    @functools.wraps(command)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except OnnxfqError as error:
            _complain(f"Error: {error}{_notes(error)}")
            raise typer.Exit(error.exit_code) from error
        except MemoryError as error:
            _complain(f"Error: Out of memory. Free some, or use a machine with more.{_notes(error)}")
            raise typer.Exit(OnnxfqError.exit_code) from error
        except KeyboardInterrupt as error:
            _complain(f"Interrupted: nothing half-written was left behind.{_notes(error)}")
            raise typer.Exit(INTERRUPTED) from error

    return wrapped


def _messages() -> Console:
    """Where messages go: stderr."""
    return Console(file=None if sys.stderr is None else Lasting(sys.stderr), stderr=True)  # type: ignore[arg-type]


def _notes(error: BaseException) -> str:
    """What was added to an error on its way up."""
    return "".join(f" {note}" for note in getattr(error, "__notes__", ()))


def _complain(message: str) -> None:
    """Print one line on stderr, its first word in red."""
    console = _messages()
    kind, _, rest = message.partition(" ")
    console.print(kind, style="bold red", end=" ")
    console.print(one_line(rest), markup=False, highlight=False, emoji=False, soft_wrap=True)


@app.command()
@_reported
def quantize(
    model: ModelArgument,
    output: Output = None,
    bits: Bits = 4,
    block_size: BlockSize = "32",
    symmetric: Symmetric = None,
    activations: Activations = ActivationChoice.int8,
    algorithm: Algorithm = "auto",
    calib: Calib = None,
    tokenizer: Tokenizer = None,
    samples: Samples = 128,
    seq_len: SeqLen = 512,
    seed: Seed = 0,
    provider: ProviderOption = ProviderChoice.auto,
    include: Include = None,
    exclude: Exclude = None,
    allow_slow: AllowSlow = False,
    max_error: MaxError = None,
    min_speedup: MinSpeedup = None,
    no_validate: NoValidate = False,
    report: ReportFile = None,
    as_json: JsonFlag = False,
    work_dir: WorkDir = None,
    resume: Resume = False,
    memory: Memory = "2GB",
    threads: Threads = None,
) -> None:
    """Quantise a model, verify the written file, and compare it with the original."""
    from onnxfq import pipeline
    from onnxfq.progress import progress
    from onnxfq.report import check_report_path

    if report:
        check_report_path(report, model, output)
    with progress(_messages()) as told:
        result = pipeline.quantize(
            model, output, progress=told, bits=bits, block_size=block_size, symmetric=symmetric,
            activations=activations.value, algorithm=algorithm, provider=provider.value, include=include or (),
            exclude=exclude or (), allow_slow=allow_slow, calib=calib, tokenizer=tokenizer, samples=samples,
            seq_len=seq_len, seed=seed, max_error=max_error, min_speedup=min_speedup, validate=not no_validate,
            work_dir=work_dir, resume=resume, memory=memory, threads=threads,
        )  # fmt: skip
    try:
        _show(result, as_json=as_json)
    finally:
        if report:
            result.save(report)
    if not result.passed:
        _complain(f"Failed: a gate does not hold. The output is kept: {result.output}")
        raise typer.Exit(GATE_FAILED)


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

    result = pipeline.inspect(
        model, bits=bits, block_size=block_size, symmetric=symmetric, activations=activations.value,
        algorithm=algorithm, provider=provider.value, include=include or (), exclude=exclude or (),
        allow_slow=allow_slow,
    )  # fmt: skip
    _show(result, as_json=as_json)


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
        show_doctor(environment, facts.COLUMNS, facts.brief(kernels), _messages())


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False
) -> None:
    if version:
        from onnxfq.version import VERSION

        typer.echo(VERSION)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(WRONG_USAGE)


def _show(result: Report, *, as_json: bool) -> None:
    """Print a report: on stdout as JSON, or on stderr as tables."""
    from onnxfq.tables import show_inspection, show_report

    if as_json:
        _print_json(result.to_json(), result.output)
    elif result.output is None:
        show_inspection(result, _messages())
    else:
        show_report(result, _messages())


def _print_json(value: dict[str, Any], output: str | None = None) -> None:
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    try:
        if sys.stdout is None:
            raise OSError("it is closed")
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        done = f" The model is complete: '{output}'." if output else ""
        raise OutputError(f"Cannot write the report to stdout ({error.strerror or error}).{done}") from error


def main() -> NoReturn:
    """Run the command line and exit with its code; a crash is no failed gate and gets another code than 1."""
    # Threads of compiled loops sleep between loops instead of spinning: on a busy machine that is several times faster.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    occupy_standard_streams()
    interrupt = _interrupter()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        code = run(sys.argv[1:])
    except Exception:  # noqa: BLE001 - shown in full, with what to do about it
        traceback.print_exc()
        _complain("Bug: this should not have happened. Please report it with all of the above.")
        code = OnnxfqError.exit_code
    for stream in (sys.stdout, sys.stderr):
        settle(stream)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run the command line; returns the exit code."""
    try:
        app(arguments, prog_name="onnxfq")
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    return 0


def _interrupter() -> Callable[[int, FrameType | None], None]:
    """A signal handler that gives up: what is cleaned up then is not interrupted by a second signal.

    From the third on, each interrupts again: the first may have come where Python drops exceptions, such as in a
    destructor, and a run that cannot be ended would be killed. What a clean-up then leaves, the next run removes.
    """
    seen: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        if len(seen) != 2:
            raise KeyboardInterrupt

    return interrupt
