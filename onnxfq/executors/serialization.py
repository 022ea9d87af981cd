"""Files through which large things go from process to process, in a folder that all of them see.

They are .npz files: arrays, and JSON that says how they belong together. Reading one makes nothing but plain values and
the classes that are registered here.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from onnxfq.errors import DataError, OutputError
from onnxfq.system.archive import read_archive, write_archive

_PREFIX = "kept-"  # by which the work directory knows what a killed run has left
_SEQUENCES: dict[str, type] = {"list": list, "tuple": tuple, "frozenset": frozenset}
_CLASSES: dict[str, type] = {}

_MADE: dict[Callable[[Any], Any], tuple[Path, object]] = {}

Class = TypeVar("Class", bound=type)
Made = TypeVar("Made")


def serializable(cls: Class) -> Class:
    """Let objects of a dataclass go through files."""
    _CLASSES[cls.__name__] = cls
    return cls


def dump(folder: Path, value: object, answers: Path | None = None) -> Path:
    """Write a value to a new file, for `load`.

    Args:
        folder: for the file.
        value: plain values, arrays, bytes and paths, sequences and dictionaries of them, and objects of dataclasses
            that are `serializable`.
        answers: the file that this one belongs to, and goes with; see `remove`.

    Raises:
        OutputError: it cannot be written.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    described = _describe(value, arrays)
    file: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f"{answers.name}." if answers else _PREFIX, dir=folder)
        file = Path(name).absolute()
        with os.fdopen(descriptor, "wb") as stream:
            write_archive(stream, arrays, described)
    except OSError as error:
        if file is not None:
            file.unlink(missing_ok=True)
        raise OutputError(
            f"Cannot write to '{folder}' ({error.strerror or error}). Free some disk space, or choose another place "
            "with `work_dir`."
        ) from error
    return file


def load(file: Path) -> Any:  # noqa: ANN401
    """What `dump` wrote.

    Raises:
        OutputError: it cannot be read.
    """
    try:
        arrays, described = read_archive(file)
        return _build(described, arrays)
    except (DataError, KeyError, TypeError, ValueError) as error:
        raise OutputError(f"Cannot read '{file}' ({error}). Give a `work_dir` of its own.") from error


def load_once(file: Path, make: Callable[[Any], Made]) -> Made:
    """What `make` makes of a file's value, for tasks that follow each other: the last file's is kept, of each `make`.

    Args:
        file: that `dump` has written.
        make: to be found under its name in every process.
    """
    known = _MADE.get(make)
    if known is None or known[0] != file:
        _MADE.pop(make, None)  # two at once may be too large
        known = _MADE[make] = file, make(load(file))
    return cast(Made, known[1])


def forget_loaded() -> None:
    """Give back the memory of what `load_once` has kept."""
    _MADE.clear()


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
def dumped(folder: Path, value: object) -> Iterator[Path]:
    """A file that holds a value as long as the context."""
    file = dump(folder, value)
    try:
        yield file
    finally:
        remove(file)


def _describe(value: object, arrays: dict[str, npt.NDArray[Any]]) -> object:
    """A value as JSON, its arrays put aside."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray):
        arrays[name := str(len(arrays))] = value.astype(str) if value.dtype.kind == "O" else value  # of texts
        return ["array", name]
    if isinstance(value, bytes):
        return ["bytes", _describe(np.frombuffer(value, np.uint8), arrays)]
    if isinstance(value, Path):
        return ["path", str(value)]
    if isinstance(value, dict):
        return ["dict", {name: _describe(item, arrays) for name, item in value.items()}]
    if type(value).__name__ in _SEQUENCES:
        return [type(value).__name__, [_describe(item, arrays) for item in value]]  # type: ignore[attr-defined]
    if _CLASSES.get(type(value).__name__) is not type(value):
        raise TypeError(f"{type(value)} is not serializable")
    given = [field.name for field in fields(value) if field.init]  # type: ignore[arg-type]
    members = {name: getattr(value, name) for name in given}
    return [type(value).__name__, {name: _describe(member, arrays) for name, member in members.items()}]


def _build(described: Any, arrays: dict[str, npt.NDArray[Any]]) -> Any:  # noqa: ANN401
    """The inverse of `_describe`."""
    if not isinstance(described, list):
        return described
    kind, held = described
    if kind == "array":
        return arrays[held]
    if kind == "bytes":
        return _build(held, arrays).tobytes()
    if kind == "path":
        return Path(held)
    if kind in _SEQUENCES:
        return _SEQUENCES[kind](_build(item, arrays) for item in held)
    members = {name: _build(member, arrays) for name, member in held.items()}
    return members if kind == "dict" else _CLASSES[kind](**members)
