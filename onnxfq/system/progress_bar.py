"""Progress on the terminal: a live line where there is one, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from onnxfq.progress import Progress as OnProgress
from onnxfq.system.terminal import one_line

SECONDS_BETWEEN_LINES = 2.0


@contextmanager
def progress_bar(console: Console, words: Callable[[str], str] = str) -> Iterator[OnProgress]:
    """A function to call with (what, done, total) while inside; a total of 0 marks a remark, which stays.

    Args:
        console: where to show it.
        words: says a remark in the words of those who read it there.
    """

    def line(text: str) -> None:
        console.print(one_line(words(text)), markup=False, highlight=False, soft_wrap=True, emoji=False)

    if not console.is_terminal:
        yield _plain(line)
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
        yield _live(bar, line)


def _live(bar: Progress, line: Callable[[str], None]) -> OnProgress:
    """One line that changes, its clock starting anew with each stage."""
    stage, task = "", bar.add_task("loading", total=1)

    def report(what: str, done: int, total: int) -> None:
        nonlocal stage
        if not total:
            line(what)
        elif what != stage:
            stage = what
            bar.reset(task, description=one_line(what), completed=done, total=total)
        else:
            bar.update(task, completed=done)

    return report


def _plain(show: Callable[[str], None]) -> OnProgress:
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
        show(line)

    return report
