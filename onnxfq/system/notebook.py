"""Results as small tables for notebooks. Whatever comes from a model is made harmless."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from onnxfq.system.terminal import one_line

if TYPE_CHECKING:
    from jinja2 import Template

_LONGEST_CELL = 200  # characters
_TABLE = """<div><b>{{ title }}</b>
<table>
{% if columns %}<thead><tr>{% for column in columns %}<th>{{ column }}</th>{% endfor %}</tr></thead>
{% endif %}<tbody>
{% for row in rows %}<tr><th>{{ row[0] }}</th>{% for cell in row[1:] %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table>
{% for note in notes %}<p>{{ note }}</p>
{% endfor %}</div>"""


def notebook_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> str:
    """HTML of a table with a title above and notes below it.

    Args:
        title: what it is about.
        columns: headings, or none.
        rows: cells; the first of each names the row.
        notes: a paragraph each.
    """
    cells = [[_cell(cell) for cell in row] for row in rows]
    return _template().render(title=_cell(title), columns=columns, rows=cells, notes=[one_line(note) for note in notes])


def _cell(text: str) -> str:
    shown = one_line(text)
    return shown if len(shown) <= _LONGEST_CELL else f"{shown[:_LONGEST_CELL]}…"


@cache
def _template() -> Template:
    from jinja2 import Environment

    return Environment(autoescape=True).from_string(_TABLE)
