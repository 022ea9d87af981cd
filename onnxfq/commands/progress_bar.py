"""Progress on the terminal: a live line where there is one, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from onnxfq.commands.option_names import with_option_names
from onnxfq.progress import Progress as OnProgress
from onnxfq.system.terminal import one_line

SECONDS_BETWEEN_LINES = 2.0


@contextmanager
def progress(console: Console) -> Iterator[OnProgress]:
    """A function to call with (what, done, total) while inside; a total of 0 marks a remark, which stays."""
    if not console.is_terminal:
        yield _plain(console)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield _live(bar, console)


def _live(bar: Progress, console: Console) -> OnProgress:
    """One line that changes, its clock starting anew with each stage."""
    stage, task = "", bar.add_task("loading", total=1)

    def report(what: str, done: int, total: int) -> None:
        nonlocal stage
        if not total:
            _print(console, what)
        elif what != stage:
            stage = what
            bar.reset(task, description=one_line(what), completed=done, total=total)
        else:
            bar.update(task, completed=done)

    return report


def _plain(console: Console) -> OnProgress:
    """One line for each new stage and remark; how far a stage is, where it takes long."""
    stage, last = "", 0.0

    def report(what: str, done: int, total: int) -> None:
        nonlocal stage, last
        if what != stage or not total:
            line = what
        elif 0 < done < total and monotonic() - last >= SECONDS_BETWEEN_LINES:
            line = f"{what}: {100 * done // total} %"
        else:
            return
        stage, last = what, monotonic()
        _print(console, line)

    return report


def _print(console: Console, line: str) -> None:
    console.print(one_line(with_option_names(line)), markup=False, highlight=False, soft_wrap=True, emoji=False)
