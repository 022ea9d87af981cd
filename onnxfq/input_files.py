"""Files that inputs come from, by suffix: the one list that help, messages and readers share. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from onnxfq.errors import DataError

# What becomes inputs of a model, and what each holds; `feeds.readers` has a reader for each.
FEED_FILES = {
    ".npz": "an array for each input, the first axis counting samples",
    ".npy": "the array of a model with one input, the first axis counting samples",
    ".jsonl": 'an object a line: "text" (or a list of texts, each a sample), "input_ids", or the inputs by name',
    ".txt": "running text, cut into windows of consecutive tokens",
}
ARRAY_FILES = (".npz", ".npy")  # a folder may hold many of them
RUNNING_TEXT = ".txt"  # whole texts, and the only one that is no list of samples
# What becomes records, by the names of columns; `feeds.records` reads them.
RECORD_FILES = {
    ".csv": "columns with commas between them, quoted where needed",
    ".tsv": "columns with tabs between them, no quotes",
    ".jsonl": "an object a line",
}


def listed(suffixes: Iterable[str], last: str = "or") -> str:
    """`.npz, .jsonl or .txt`."""
    *first, end = suffixes
    return f"{', '.join(first)} {last} {end}" if first else end


def refuse_missing(path: Path) -> None:
    """Refuse data that are not there.

    Raises:
        DataError: they are not.
    """
    if not path.exists():
        raise DataError(
            f"There is no file {path}. Give a {listed(FEED_FILES)} file, or a folder of {listed(ARRAY_FILES)} files."
        )
