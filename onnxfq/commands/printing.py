"""Lines and tables on a terminal. Whatever comes from a model is made harmless."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxfq.commands.option_names import with_option_names
from onnxfq.system.terminal import one_line, printable, shortened

_LONGEST_CELL = 500  # characters; --json has all of them


def say(console: Console, text: str | Text, style: str = "") -> None:
    """Print a line as it is: nothing in it is markup. In plain text, settings get the names of their options."""
    console.print(text if isinstance(text, Text) else Text(one_line(with_option_names(text)), style=style))


def table(*columns: str) -> Table:
    """A table without lines, whose first column gives way and folds where the others need the room."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        made.add_column(column, overflow="fold", no_wrap=index > 0)
    return made


def add(to: Table, *cells: str) -> None:
    """Add a row."""
    to.add_row(*(Text(printable(shortened(cell, _LONGEST_CELL))) for cell in cells))
