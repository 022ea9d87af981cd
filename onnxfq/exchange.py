"""Files through which large things go from process to process, in a folder that all of them see."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onnxfq.errors import OutputError

_PREFIX = "kept-"  # by which the work directory knows what a killed run has left


def hand(folder: Path, value: object, answers: Path | None = None) -> Path:
    """Write a value to a new file, for `take`.

    Args:
        folder: for the file.
        value: anything that can be pickled.
        answers: the file that this one belongs to, and goes with; see `remove`.

    Raises:
        OutputError: it cannot be written.
    """
    file: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f"{answers.name}." if answers else _PREFIX, dir=folder)
        file = Path(name).absolute()
        with os.fdopen(descriptor, "wb") as stream:
            pickle.dump(value, stream, protocol=5)
    except OSError as error:
        if file is not None:
            file.unlink(missing_ok=True)
        raise OutputError(
            f"Cannot write to '{folder}' ({error.strerror or error}). Free some disk space, or choose another place "
            "with --work-dir."
        ) from error
    return file


def take(file: Path) -> Any:  # noqa: ANN401
    """What `hand` wrote.

    Raises:
        OutputError: it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return pickle.load(stream)  # noqa: S301 - of processes that are sent pickles anyway
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        raise OutputError(f"Cannot read '{file}' ({error}). Give a --work-dir of its own.") from error


def remove(file: Path) -> None:
    """Remove a file and its answers, with those that a killed process has not finished."""
    for answer in file.parent.glob(f"{file.name}.*"):
        answer.unlink(missing_ok=True)
    file.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove every answer: a worker may give one again when another, that gave it before, is killed."""
    for answer in folder.glob(f"{_PREFIX}*.*"):
        answer.unlink(missing_ok=True)


@contextmanager
def handed(folder: Path, value: object) -> Iterator[Path]:
    """A file that holds a value as long as the context."""
    file = hand(folder, value)
    try:
        yield file
    finally:
        remove(file)
