"""Records from tables and lines of JSON."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxfq.errors import DataError
from onnxfq.feeds import Column, read_records
from onnxfq.feeds.records import RECORD_READERS, number, text
from onnxfq.input_files import RECORD_FILES

COLUMNS = (Column("first", ("one",)), Column("extra", optional=True), Column("last"))


def read(tmp_path: Path, content: str, suffix: str = "csv", samples: int | None = None) -> list[dict[str, object]]:
    path = tmp_path / f"data.{suffix}"
    path.write_text(content, encoding="utf-8", newline="")
    return [record for record, _ in read_records(path, COLUMNS, samples=samples)]


@pytest.mark.parametrize(
    ("content", "records"),
    [
        ("a,b\nc,d\n", [{"first": "a", "last": "b"}, {"first": "c", "last": "d"}]),
        ("a,b,c\n", [{"first": "a", "extra": "b", "last": "c"}]),
        ("a,b,c,d\n", [{"first": "a", "extra": "b", "last": "c"}]),
        ("Last, ONE \na,b\n", [{"first": "b", "last": "a"}]),
        ("\ufefflast,first,extra,other\na,b,c,d\n", [{"first": "b", "extra": "c", "last": "a"}]),
        ('"a, ""b""\nc",d\r\n\r\ne,f', [{"first": 'a, "b"\nc', "last": "d"}, {"first": "e", "last": "f"}]),
        ("one,first,last\nx,y,z\n", [{"first": "y", "last": "z"}]),
        ("", []),
    ],
)
def test_tables(tmp_path: Path, content: str, records: list[dict[str, object]]) -> None:
    assert read(tmp_path, content) == records


def test_tabs_know_no_quotes(tmp_path: Path) -> None:
    assert read(tmp_path, 'first\tlast\n"a\tb"\n', "tsv") == [{"first": '"a', "last": 'b"'}]


def test_lines_of_json(tmp_path: Path) -> None:
    content = '{"one": 1, "last": [2]}\n\n{"first": "a", "last": "b", "extra": null}\n'
    assert read(tmp_path, content, "jsonl") == [
        {"first": 1, "last": [2]}, {"first": "a", "last": "b", "extra": None}
    ]  # fmt: skip


def test_the_first_ones_are_read_and_no_more(tmp_path: Path) -> None:
    assert len(read(tmp_path, '{"first": 1, "last": 2}\n{"first": 1, "last": 2}\nbroken', "jsonl", samples=2)) == 2


@pytest.mark.parametrize(
    ("content", "suffix", "message"),
    [
        ("a,b\nc\n", "csv", r'A row has 1 cells \(in line 2 of data\.csv; wanted 2: "first", "last"\)'),
        ("first,last\nc\n", "csv", r"A row has 1 cells \(in line 2 of data\.csv; wanted 2, as many"),
        ('a,"b\n', "csv", r"Cannot read a row of the table \(in line \d of data\.csv\)"),
        ('{"first": 1}', "jsonl", r'There is no "last" \(in line 1 of data\.jsonl; got first\)'),
        ("[1]", "jsonl", r"Expected a JSON object \(in line 1 of data\.jsonl"),
        ("{", "jsonl", r"Expected JSON \(in line 1"),
        (
            "a",
            "txt",
            r'is not a table \(got .\.txt.\)\. Give a file with "first", "extra", "last" as \.csv',
        ),
    ],
)
def test_what_cannot_be_read_says_where(tmp_path: Path, content: str, suffix: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, content, suffix)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read as UTF-8 text"):
        list(read_records(tmp_path / "none.csv", COLUMNS))


def test_values_have_types() -> None:
    assert number({"x": " 1.5"}, "x", "there") == 1.5
    assert number({"x": 2}, "x", "there") == 2.0
    assert text({"x": "a"}, "x", "there") == "a"
    for value in ("", None, [1]):
        with pytest.raises(DataError, match=r'"x" must be a number \(in there; got'):
            number({"x": value}, "x", "there")
    for value in (" ", None, [1]):
        with pytest.raises(DataError, match=r'"x" must be text that is not blank \(in there; got'):
            text({"x": value}, "x", "there")


def test_there_is_a_reader_for_every_kind_of_file_that_help_and_messages_name() -> None:
    assert list(RECORD_READERS) == list(RECORD_FILES)
