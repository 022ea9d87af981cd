"""Progress on the terminal: a live line where there is one, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def progress(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A function to call with (what, done, total) while inside."""
    if not console.is_terminal:
        yield _plain(console)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("loading", total=1)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


def _plain(console: Console) -> Callable[[str, int, int], None]:
    """One line for each new stage, and one for every tenth of a long one."""
    last = ""

    def tell(what: str, done: int, total: int) -> None:
        nonlocal last
        line = what if total < 2 or not done else f"{what}: {10 * (10 * done // total)} %"
        if line != last:
            console.print(line, markup=False, highlight=False)
            last = line

    return tell
