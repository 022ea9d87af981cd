"""Finished stages on disk, so that an interrupted run can go on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from onnxfq.arrays import Array
from onnxfq.errors import DataError, OutputError, UsageError
from onnxfq.system.archive import read_archive, write_archive
from onnxfq.system.durable import cleaning, locked, write_durably

_MANIFEST = "onnxfq-work.json"
_LOCK = "onnxfq-work.lock"
_FORMAT = 4
_DIGEST_BYTES = 32  # at the end of a stage's file: SHA-256 of all before
_STAGE = re.compile(r"stage-\d{5,}\.npz")
_LEFT_OVER = re.compile(r"(stage-\d{5,}|onnxfq-work)\.part|kept-\w{8}(\.\w{8})?")  # by a killed run


class Checkpoint:
    """A folder with one file for each finished stage; see `checkpoint`.

    Attributes:
        folder: where they are.
        finished: how many stages an earlier run has left.
        thrown_away: how many of an earlier run were removed.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], *, resume: bool) -> None:
        self.folder, self.thrown_away = folder, 0
        manifest = folder / _MANIFEST
        if resume and manifest.exists():
            _compare(folder, json.loads(json.dumps(_versioned(identity))), _read_manifest(manifest))
        else:
            self.thrown_away = count_stages(folder)
            _clear(folder)
            write_durably(manifest, json.dumps(_versioned(identity), indent=1).encode(), manifest.with_suffix(".part"))
        for path in folder.iterdir():
            if _LEFT_OVER.fullmatch(path.name):
                path.unlink()
        self.finished = count_stages(folder)

    def save(self, stage: int, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> None:
        """Store a finished stage: the file is there as a whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        file = self._file(stage)
        part = file.with_suffix(".part")
        try:
            with part.open("w+b") as stream:
                write_archive(stream, arrays, facts)
                stream.seek(0)
                stream.write(hashlib.file_digest(stream, "sha256").digest())
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(file)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise OutputError(
                f"Cannot write '{file}' ({error.strerror or error}). Free some disk space, or choose another place "
                "with `work_dir`."
            ) from error

    def load(self, stage: int) -> tuple[dict[str, Array], dict[str, Any]] | None:
        """A finished stage; None where it is not finished, or its file is damaged, and it is to be solved again."""
        file = self._file(stage)
        try:
            if not _is_whole(file):
                return None
            return read_archive(file)
        except (OSError, DataError):
            return None

    def _file(self, stage: int) -> Path:
        return self.folder / f"stage-{stage:05}.npz"


@contextmanager
def checkpoint(folder: Path, identity: Mapping[str, Any], *, resume: bool) -> Iterator[Checkpoint]:
    """A work directory, which no other run can use meanwhile; it goes again if no stage was finished.

    Args:
        folder: made where it does not exist.
        identity: whatever the results depend on; a folder of another identity is refused.
        resume: go on with what is there; otherwise it is thrown away.

    Raises:
        UsageError: the folder holds the work of another run, or something else.
        OutputError: it cannot be written, or another run is using it.
    """
    busy = f"Another run is using the work directory '{folder}' just now. Wait for it, or give another `work_dir`."
    with _no_empty_folders(folder), ExitStack() as stack:
        with _told(folder):
            refuse_foreign(folder)
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder / _LOCK, busy))
            opened = Checkpoint(folder, identity, resume=resume)
        with cleaning(lambda: None if count_stages(folder) else _clear(folder)):
            yield opened


@contextmanager
def _no_empty_folders(folder: Path) -> Iterator[None]:
    """Remove again what was made of a path and is empty."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    finally:
        for path in made:
            with suppress(OSError):
                path.rmdir()


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"Cannot write the work directory '{folder}' ({error.strerror or error}). Choose another with `work_dir`."
        ) from error


def refuse_foreign(folder: Path) -> None:
    """Refuse a work directory that is none, or that holds files of others.

    Raises:
        UsageError: it does.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise UsageError(f"The work directory '{folder}' is a file. Give a folder with `work_dir`.")
    names = sorted(path.name for path in folder.iterdir())
    foreign = [name for name in names if not _is_ours(name)]
    if _MANIFEST not in names:
        foreign += [name for name in names if _STAGE.fullmatch(name)]
    if foreign:
        raise UsageError(
            f"The work directory '{folder}' holds other files (such as '{foreign[0]}'). Give an empty one with "
            "`work_dir`, or one that does not exist."
        )


def discard(folder: Path) -> None:
    """Remove everything that is ours from a work directory, and the folder if nothing else is in it."""
    with suppress(FileNotFoundError):
        _clear(folder)
    with suppress(OSError):  # something else is in it
        folder.rmdir()


def _clear(folder: Path) -> None:
    """Remove our files; the manifest goes last, for it tells that the others are ours."""
    paths = [path for path in folder.iterdir() if _is_ours(path.name) and path.name != _LOCK]
    for path in sorted(paths, key=lambda path: path.name == _MANIFEST):
        path.unlink()


def count_stages(folder: Path) -> int:
    """How many finished stages a folder holds, those in folders below it included."""
    return sum(1 for path in folder.rglob("stage-*") if _STAGE.fullmatch(path.name))


def _is_ours(name: str) -> bool:
    return name in (_MANIFEST, _LOCK) or bool(_STAGE.fullmatch(name) or _LEFT_OVER.fullmatch(name))


def _versioned(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {"format": _FORMAT, **identity}


def _compare(folder: Path, ours: Mapping[str, Any], found: Mapping[str, Any] | None) -> None:
    if found is None:
        raise UsageError(
            f"The work directory '{folder}' is damaged: '{_MANIFEST}' is not what was written. Leave `resume` out to "
            "start afresh, or give another `work_dir`."
        )
    other = sorted(key for key in {*ours, *found} if ours.get(key) != found.get(key))
    if other:
        told = "; ".join(f"{key}: got {_short(ours.get(key))}, wanted {_short(found.get(key))}" for key in other)
        raise UsageError(
            f"The work directory '{folder}' belongs to another run ({told}). "
            "Give the same model, data and options again, another `work_dir`, or leave `resume` out."
        )


def _short(value: object) -> str:
    """A value for people; of hashes the beginning."""
    return re.sub(r"\b([0-9a-f]{8})[0-9a-f]{56}\b", r"\1…", str(value))


def _read_manifest(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else None


def _is_whole(path: Path) -> bool:
    """Whether a stage's file ends with the digest of what comes before."""
    length = path.stat().st_size - _DIGEST_BYTES
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while length > 0 and (chunk := stream.read(min(length, 1 << 20))):
            digest.update(chunk)
            length -= len(chunk)
        return stream.read() == digest.digest()
