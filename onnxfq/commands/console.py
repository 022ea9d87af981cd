"""What the command line says and how a command ends: results on stdout, messages on stderr, exit codes."""

from __future__ import annotations

import functools
import io
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from onnxfq.commands.option_names import declare_options, with_option_names
from onnxfq.errors import OnnxfqError, OutputError, UsageError
from onnxfq.runtime_distributions import conflict
from onnxfq.system.following import STAGES
from onnxfq.system.terminal import Lasting, one_line

if TYPE_CHECKING:
    from onnxfq.metrics.gates import Gate
    from onnxfq.progress import Progress
    from onnxfq.reports.report import Report

GATE_FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130

Arguments = ParamSpec("Arguments")


class Result(Protocol):
    """What a verb returns."""

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        ...


AnyResult = TypeVar("AnyResult", bound=Result)


def reported(command: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Turn deliberate errors and interruptions into a message and an exit code, in the words of the command line."""
    declare_options(command)

    @functools.wraps(command)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except OnnxfqError as error:
            print_error(f"Error: {error}{_notes(error)}")
            raise typer.Exit(error.exit_code) from error
        except MemoryError as error:
            print_error(f"Error: Out of memory. Free some, or use a machine with more.{_notes(error)}")
            raise typer.Exit(OnnxfqError.exit_code) from error
        except KeyboardInterrupt as error:
            print_error(f"Interrupted: nothing half-written was left behind.{_notes(error)}")
            raise typer.Exit(INTERRUPTED) from error

    return wrapped


def messages(*, quiet: bool = False) -> Console:
    """Where messages go: stderr, or nowhere."""
    stream = None if sys.stderr is None else Lasting(sys.stderr)
    return Console(file=stream, stderr=True, quiet=quiet)  # type: ignore[arg-type]


def results(*, quiet: bool = False) -> Console:
    """Where results go: stdout, or nowhere."""
    return Console(file=Lasting(sys.stdout or io.StringIO()), quiet=quiet)  # type: ignore[arg-type]


def remark(text: str, *, quiet: bool = False) -> None:
    """Print one line on stderr, settings by the names of their options."""
    line = one_line(with_option_names(text))
    messages(quiet=quiet).print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)


def _notes(error: BaseException) -> str:
    """What was added to an error on its way up."""
    return "".join(f" {note}" for note in getattr(error, "__notes__", ()))


def print_error(message: str) -> None:
    """Print one line on stderr, its first word in red, settings by the names of their options."""
    console = messages()
    kind, _, rest = message.partition(" ")
    console.print(kind, style="bold red", end=" ")
    console.print(one_line(with_option_names(rest)), markup=False, highlight=False, emoji=False, soft_wrap=True)


@contextmanager
def report_progress(*, quiet: bool = False, verbose: bool = False) -> Iterator[Progress]:
    """Progress while inside; verbose: every line of the log too.

    Raises:
        UsageError: both were asked for.
    """
    from onnxfq.system.progress_bar import progress_bar

    if quiet and verbose:
        raise UsageError("--quiet and --verbose contradict each other. Drop one of them.")
    console = messages(quiet=quiet)
    with progress_bar(console, with_option_names) as report:
        if wrong := conflict():
            report(f"Note: {wrong}", 0, 0)
        if not verbose:
            yield report
            return
        handler, log = _Lines(report), logging.getLogger("onnxfq")
        handler.addFilter(lambda record: record.name != STAGES)  # progress shows them
        level = log.level
        log.addHandler(handler)
        log.setLevel(logging.DEBUG)
        try:
            yield report
        finally:
            log.removeHandler(handler)
            log.setLevel(level)


class _Lines(logging.Handler):
    """Log records as remarks between the lines of progress."""

    def __init__(self, report: Progress) -> None:
        super().__init__()
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record."""
        self._report(record.getMessage(), 0, 0)


def show(result: Report, *, as_json: bool, quiet: bool = False) -> None:
    """Print a report on stdout, as JSON or as tables."""
    from onnxfq.commands.tables import show_inspection, show_report

    tables = show_inspection if result.output is None else show_report
    show_as(result, tables, result.warnings, as_json=as_json, quiet=quiet)


def show_as(
    result: AnyResult,
    tables: Callable[[AnyResult, Console], None],
    notes: Iterable[str],
    *,
    as_json: bool,
    quiet: bool = False,
) -> None:
    """Print a result on stdout, as JSON or as tables, and then what is to be noted on stderr."""
    if as_json:
        print_json(result.to_json())
        return
    tables(result, results(quiet=quiet))
    for text in notes:
        noted = Text("Note: ", style="yellow").append(one_line(with_option_names(text)), style="default")
        messages(quiet=quiet).print(noted)


def end_by_gates(gates: Iterable[Gate], kept: str = "") -> None:
    """End the command with its exit code where a gate does not hold, and name all that do not.

    Args:
        gates: all of them.
        kept: how the message ends.
    """
    failed = "; ".join(str(gate) for gate in gates if not gate.passed)
    if failed:
        print_error(f"Failed: a gate does not hold: {failed}{kept}")
        raise typer.Exit(GATE_FAILED)


def print_json(value: dict[str, Any]) -> None:
    """Print one object on stdout.

    Raises:
        OutputError: stdout takes nothing.
    """
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    try:
        if sys.stdout is None:
            raise OSError("it is closed")
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        raise OutputError(f"Cannot write to stdout ({error.strerror or error}).") from error
