"""The command line: verbs → public API → exit code."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from onnxfq.commands import arguments as arg
from onnxfq.commands import export_arguments as export_arg
from onnxfq.commands.console import (
    INTERRUPTED,
    WRONG_USAGE,
    print_error,
    print_json,
    report_progress,
    reported,
    results,
)
from onnxfq.commands.measure import benchmark, evaluate, show_reports
from onnxfq.commands.panels import arranged, examples
from onnxfq.commands.quantize import inspect, quantize
from onnxfq.errors import OnnxfqError
from onnxfq.system.process import handle_signals, ignore_signals, occupy_standard_streams, settle_streams
from onnxfq.system.terminal import one_line

app = typer.Typer(
    name="onnxfq",
    help="Make exported ONNX models small and fast without making them worse, and prove it.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_VERBS: dict[str, Callable[..., None]] = {
    "quantize": quantize,
    "inspect": inspect,
    "evaluate": evaluate,
    "benchmark": benchmark,
    "report": show_reports,
}
for name, verb in _VERBS.items():
    app.command(name, epilog=examples(name))(arranged(verb))


@app.command(epilog=examples("export"))
@arranged
@reported
def export(
    model: export_arg.CheckpointArgument,
    output: export_arg.ExportFolder,
    task: export_arg.ExportTask = "auto",
    dtype: export_arg.DtypeOption = export_arg.DtypeChoice.fp32,
    quiet: arg.Quiet = False,
    verbose: arg.Verbose = False,
) -> None:
    """Export a transformers model to a folder with ONNX files, through optimum."""
    from onnxfq import exporting

    with report_progress(quiet=quiet, verbose=verbose) as progress:
        files = exporting.export(model, output, task=task, dtype=dtype.value, progress=progress)
    for file in files:
        results(quiet=quiet).print(one_line(str(file)), markup=False, highlight=False, soft_wrap=True, emoji=False)


@app.command()
@reported
def doctor(measure: arg.Measure = False, as_json: arg.JsonFlag = False, quiet: arg.Quiet = False) -> None:
    """Show providers, kernels, and which formats are fast here."""
    from onnxfq import doctor as facts
    from onnxfq.commands.tables import show_doctor, show_speeds

    if measure:
        from onnxfq.benchmarking.format_speed import measure_here

        with report_progress(quiet=quiet) as progress:
            measure_here(progress)
    environment, kernels, speeds = dict(facts.environment()), facts.kernel_rows(), facts.speeds()
    if as_json:
        told = [dict(zip(facts.COLUMNS, row, strict=True)) for row in kernels]
        print_json({**environment, "kernels": told, "speed_table": speeds and speeds.to_json()})
        return
    show_doctor(environment, facts.COLUMNS, facts.brief(kernels), results(quiet=quiet))
    if speeds is not None:
        show_speeds(speeds, facts.speed_rows(speeds), results(quiet=quiet))


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


def main() -> NoReturn:
    """Run the command line and exit with its code; a crash is no failed gate and gets another code than 1."""
    occupy_standard_streams()
    handle_signals()
    try:
        code = run(sys.argv[1:])
    except Exception:  # noqa: BLE001 - shown in full, with what to do about it
        traceback.print_exc()
        print_error("Bug: this should not have happened. Please report it with all of the above.")
        code = OnnxfqError.exit_code
    ignore_signals()
    settle_streams()
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
