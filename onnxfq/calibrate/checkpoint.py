"""Finished stages on disk, so that an interrupted run can go on where it was."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from onnxfq.errors import OutputError, UsageError
from onnxfq.session import Array

_MANIFEST = "onnxfq-work.json"
_FORMAT = 1
_ABOUT = "about"  # the entry of a stage's file that says what the others are


class Checkpoint:
    """A folder with one file for each finished stage.

    Args:
        folder: made where it does not exist.
        identity: whatever the results depend on; a folder of another identity is refused.
        resume: go on with what is there; otherwise it is thrown away.

    Attributes:
        thrown_away: finished stages of an earlier run were removed.

    Raises:
        UsageError: the folder holds the work of another run, or something else.
        OutputError: it cannot be written.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], *, resume: bool) -> None:
        self.folder = folder
        self._identity = {"format": _FORMAT, **identity}
        self.thrown_away = False
        manifest = folder / _MANIFEST
        try:
            folder.mkdir(parents=True, exist_ok=True)
            found = sorted(p.name for p in folder.iterdir())
            if found and _MANIFEST not in found and not all(_is_ours(name) for name in found):
                raise UsageError(
                    f"The work directory '{folder}' holds other files (such as '{found[0]}'). Give an empty one."
                )
            if resume and manifest.exists():
                self._compare(_read_manifest(manifest))
            else:
                self.thrown_away = any(name.startswith("stage-") for name in found)
                discard(folder)
                folder.mkdir(exist_ok=True)
                _write(manifest, json.dumps(self._identity, indent=1).encode())
            for leftover in folder.glob("*.part"):
                leftover.unlink()
        except OSError as error:
            raise OutputError(f"Cannot write the work directory '{folder}' ({error.strerror or error}).") from error

    def _compare(self, found: Mapping[str, Any]) -> None:
        ours = json.loads(json.dumps(self._identity))
        other = sorted(key for key in {*ours, *found} if ours.get(key) != found.get(key))
        if other:
            told = "; ".join(f"{key}: got {ours.get(key)}, wanted {found.get(key)}" for key in other)
            raise UsageError(
                f"The work directory '{self.folder}' belongs to another run ({told}). "
                "Give the same model, data and options again, another --work-dir, or leave --resume out."
            )

    def save(self, stage: int, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> None:
        """Store a finished stage: the file is there as a whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        file = self._file(stage)
        part = file.with_suffix(".part")
        try:
            with part.open("wb") as stream:
                plain = {name: _plain(array) for name, array in arrays.items()}
                types = {name: array.dtype.name for name, array in arrays.items()}
                text = np.frombuffer(json.dumps({"types": types, "facts": facts}).encode(), np.uint8)
                np.savez(stream, allow_pickle=False, **plain, **{_ABOUT: text})
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(file)
        except OSError as error:
            raise OutputError(f"Cannot write '{file}' ({error.strerror or error}). Is the disk full?") from error

    def load(self, stage: int) -> tuple[dict[str, Array], dict[str, Any]] | None:
        """A finished stage; None where it is not finished, or its file is damaged."""
        try:
            with np.load(self._file(stage), allow_pickle=False) as stored:
                arrays = {name: np.asarray(array) for name, array in stored.items()}
            about = json.loads(arrays.pop(_ABOUT).tobytes())
            return {n: a.view(np.dtype(_type(about["types"][n]))) for n, a in arrays.items()}, about["facts"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return None  # solved again, which gives the same

    def _file(self, stage: int) -> Path:
        return self.folder / f"stage-{stage:05}.npz"


def discard(folder: Path) -> None:
    """Remove everything that is ours from a work directory, and the folder if nothing else is in it."""
    for path in folder.iterdir() if folder.exists() else ():
        if _is_ours(path.name):
            path.unlink()
    if folder.exists() and not any(folder.iterdir()):
        folder.rmdir()


def _is_ours(name: str) -> bool:
    return name == _MANIFEST or name.startswith(("stage-", "kept-")) or name.endswith(".part")


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError):
        value = None
    return value if isinstance(value, dict) else {"format": "damaged"}


def _write(path: Path, data: bytes) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)


def _plain(array: Array) -> Array:
    """The same bytes in a type that .npz files know."""
    return array.view(np.uint16) if array.dtype == ml_dtypes.bfloat16 else array


def _type(name: str) -> Any:  # noqa: ANN401
    return ml_dtypes.bfloat16 if name == "bfloat16" else name
