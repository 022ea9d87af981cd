"""Rows of tables and lines of JSON by the names of their columns: pairs of sentences, labels, translations."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from onnxfq.errors import DataError
from onnxfq.feeds.jsonl import parse_lines
from onnxfq.feeds.readers import read_lines
from onnxfq.input_files import listed

Record = dict[str, object]


@dataclass(frozen=True, slots=True)
class Column:
    """One thing that a record holds.

    Attributes:
        name: what it is called here.
        aliases: further names under which files have it.
        optional: whether a file may lack it.
    """

    name: str
    aliases: tuple[str, ...] = ()
    optional: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Every name it may bear in a file."""
        return (self.name, *self.aliases)


def read_records(path: Path, columns: Sequence[Column], *, samples: int | None = None) -> Iterator[tuple[Record, str]]:
    """Read records one by one, each with the words that say where it stands.

    Args:
        path: one of `input_files.RECORD_FILES`. Tables have a first line of names or none: then the columns come in
            the order given, the optional ones only where a row has room for all.
        columns: what to read; a record holds an optional one only where the file has it.
        samples: how many at most, the first ones; None for all.

    Raises:
        DataError: the file cannot be read, or lacks a column.
    """
    reader = RECORD_READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path} is not a table (got {path.suffix or 'no suffix'!r}). "
            f"Give a file with {_listed(columns)} as {listed(RECORD_READERS)}."
        )
    return itertools.islice(reader(path, columns), samples)


def number(record: Record, name: str, where: str) -> float:
    """A record's number.

    Raises:
        DataError: it is none.
    """
    value = record[name]
    try:
        return float(str(value))
    except ValueError as error:
        raise DataError(f'"{name}" must be a number (in {where}; got {value!r}).') from error


def text(record: Record, name: str, where: str) -> str:
    """A record's text.

    Raises:
        DataError: it is none, or blank.
    """
    value = record[name]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f'"{name}" must be text that is not blank (in {where}; got {value!r}).')
    return value


def _read_jsonl(path: Path, columns: Sequence[Column]) -> Iterator[tuple[Record, str]]:
    for values, where in parse_lines(read_lines(path), path.name):
        yield _named(values, columns, where), where


def _read_table(path: Path, columns: Sequence[Column], *, tabs: bool) -> Iterator[tuple[Record, str]]:
    """Rows, by the names of the first line where it holds some."""
    heading: list[str] | None = None
    for index, (row, where) in enumerate(_rows(path, tabs=tabs)):
        if index == 0 and _is_heading(row, columns):
            heading = [cell.strip().lower() for cell in row]
            continue
        if heading is None:
            yield _by_place(row, columns, where), where
        elif len(row) < len(heading):
            raise DataError(
                f"A row has {len(row)} cells (in {where}; wanted {len(heading)}, as many as the first line has). "
                "Repair it."
            )
        else:
            yield _named(dict(zip(heading, row, strict=False)), columns, where), where


def _rows(path: Path, *, tabs: bool) -> Iterator[tuple[list[str], str]]:
    """Rows that are not blank, each with its place."""
    reader = csv.reader(
        read_lines(path),
        strict=True,
        delimiter="\t" if tabs else ",",
        quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
    )
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield row, f"line {reader.line_num} of {path.name}"
    except csv.Error as error:
        raise DataError(
            f"Cannot read a row of the table (in line {reader.line_num} of {path.name}): {error}. Repair it."
        ) from error


def _is_heading(row: Iterable[str], columns: Sequence[Column]) -> bool:
    names = {cell.strip().lower() for cell in row}
    return all(names.intersection(column.names) for column in columns if not column.optional)


def _named(values: dict[str, object] | dict[str, str], columns: Sequence[Column], where: str) -> Record:
    found = {c.name: values[name] for c in columns for name in reversed(c.names) if name in values}
    missing = [c for c in columns if c.name not in found and not c.optional]
    if missing:
        raise DataError(
            f"There is no {_listed(missing)} (in {where}; got {', '.join(values) or 'nothing'}). "
            f"Give {_listed(columns)}."
        )
    return found


def _by_place(row: Sequence[str], columns: Sequence[Column], where: str) -> Record:
    wanted = columns if len(row) >= len(columns) else [c for c in columns if not c.optional]
    if len(row) < len(wanted):
        raise DataError(
            f"A row has {len(row)} cells (in {where}; wanted {len(wanted)}: {_listed(wanted)}). "
            "Repair it, or name the columns in the first line."
        )
    return {column.name: cell for column, cell in zip(wanted, row, strict=False)}


def _listed(columns: Sequence[Column]) -> str:
    return ", ".join(f'"{column.name}"' for column in columns)


RECORD_READERS: dict[str, Callable[[Path, Sequence[Column]], Iterator[tuple[Record, str]]]] = {
    ".csv": partial(_read_table, tabs=False),
    ".tsv": partial(_read_table, tabs=True),
    ".jsonl": _read_jsonl,
}
