"""What the command line says and how a command ends: messages on stderr, JSON on stdout, exit codes."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec

import typer
from rich.console import Console

from onnxfq.errors import OnnxfqError, OutputError
from onnxfq.terminal import Lasting, one_line

if TYPE_CHECKING:
    from onnxfq.compare import Comparison
    from onnxfq.report import Report

GATE_FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130

Arguments = ParamSpec("Arguments")


def reported(command: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Turn deliberate errors and interruptions into a message and an exit code."""

    @functools.wraps(command)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except OnnxfqError as error:
            complain(f"Error: {error}{_notes(error)}")
            raise typer.Exit(error.exit_code) from error
        except MemoryError as error:
            complain(f"Error: Out of memory. Free some, or use a machine with more.{_notes(error)}")
            raise typer.Exit(OnnxfqError.exit_code) from error
        except KeyboardInterrupt as error:
            complain(f"Interrupted: nothing half-written was left behind.{_notes(error)}")
            raise typer.Exit(INTERRUPTED) from error

    return wrapped


def messages() -> Console:
    """Where messages go: stderr."""
    return Console(file=None if sys.stderr is None else Lasting(sys.stderr), stderr=True)  # type: ignore[arg-type]


def _notes(error: BaseException) -> str:
    """What was added to an error on its way up."""
    return "".join(f" {note}" for note in getattr(error, "__notes__", ()))


def complain(message: str) -> None:
    """Print one line on stderr, its first word in red."""
    console = messages()
    kind, _, rest = message.partition(" ")
    console.print(kind, style="bold red", end=" ")
    console.print(one_line(rest), markup=False, highlight=False, emoji=False, soft_wrap=True)


def show(result: Report, *, as_json: bool) -> None:
    """Print a report: on stdout as JSON, or on stderr as tables."""
    from onnxfq.tables import show_inspection, show_report

    if as_json:
        print_json(result.to_json())
    elif result.output is None:
        show_inspection(result, messages())
    else:
        show_report(result, messages())


def show_runs(result: Comparison, *, as_json: bool) -> None:
    """Print runs side by side: on stdout as JSON, or on stderr as tables."""
    from onnxfq.tables import show_comparison

    if as_json:
        print_json(result.to_json())
    else:
        show_comparison(result, messages())


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
