"""Slices of files: where a tensor's bytes lie, and which files a model may read."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import numpy.typing as npt

from onnxfq.errors import ModelError

_CHUNK = 1 << 26
_BINARY: int = getattr(os, "O_BINARY", 0)  # Windows turns line feeds into two characters without it


class Scratch:
    """Memory for one tensor at a time, used again and again: fresh pages cost more than reading into old ones."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    def take(self, count: int) -> npt.NDArray[np.uint8]:
        """The first `count` bytes; what was taken before is overwritten."""
        if self._bytes.size < count:
            self._bytes = np.empty(count, np.uint8)
        return self._bytes[:count]

    def __reduce__(self) -> tuple[type[Scratch], tuple[()]]:
        """In another process there is other memory."""
        return Scratch, ()


@dataclass(frozen=True, slots=True)
class FileSlice:
    """`length` bytes at `offset` of the file at `path`."""

    path: Path
    offset: int
    length: int

    def read(self, scratch: Scratch | None = None) -> npt.NDArray[np.uint8]:
        """Read the bytes (not through a memory map: a file that shrinks under one kills the process).

        Raises:
            ModelError: the file cannot be read or is shorter than it was.
        """
        buffer = scratch.take(self.length) if scratch else np.empty(self.length, np.uint8)
        view, done = buffer.data, 0
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.offset)
                while done < self.length:
                    count = file.readinto(view[done : done + _CHUNK])
                    if not count:
                        raise _shorter(self, self.length - done)
                    done += count
        except OSError as error:
            raise unreadable(self.path, error) from error
        return buffer


def _shorter(piece: FileSlice, missing: int) -> ModelError:
    return ModelError(
        f"'{piece.path}' is shorter than it was: {missing} of {piece.length} bytes at {piece.offset} are missing. It "
        "was changed while it was being read; run again when it is complete."
    )


def unreadable(path: Path, error: OSError | ValueError) -> ModelError:
    """What to say of a file that the operating system does not let be read."""
    reason = getattr(error, "strerror", None) or error
    return ModelError(f"Cannot read '{path}' ({reason}). Check its permissions and the disk, then run again.")


def external_file(model: Path, location: str, tensor: str) -> Path:
    """The file that an external tensor's `location` names, if the model may read it.

    Locations are relative to the model's folder and stay inside it. A symbolic link out of the folder is followed only
    as Hugging Face's cache needs it: the model itself is a link, and both links end in the same folder.

    Raises:
        ModelError: the location escapes the folder, or is not a regular, readable file.
    """
    where = f"external data of tensor '{tensor}' in '{model}' (location {location!r})"
    pure, windows = PurePosixPath(location), PureWindowsPath(location)
    escapes = pure.is_absolute() or windows.drive or windows.root or ".." in pure.parts or ".." in windows.parts
    if escapes or not location or "\0" in location:
        raise ModelError(
            f"The {where} leaves the model's folder: refused. External data must lie beside the model or below it; "
            "move the file there and correct the location."
        )
    path = model.parent / location
    try:
        real = path.resolve(strict=True)
        mode = real.stat().st_mode
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(f"The {where} is missing: no file '{path}'. Put it beside the model.") from error
    if not stat.S_ISREG(mode):
        raise ModelError(f"The {where} is not a regular file: refused.")
    folder = model.parent.resolve()
    same_cache = model.is_symlink() and real.parent == model.resolve().parent
    if not real.is_relative_to(folder) and not same_cache:
        raise ModelError(
            f"The {where} is a symbolic link out of the model's folder, to '{real}': refused. "
            "Copy the file beside the model."
        )
    return path


def check_slice(piece: FileSlice, tensor: str, wanted: int) -> FileSlice:
    """The slice, checked against the file's size and the bytes its shape needs.

    Args:
        piece: path, offset and length as the model gives them.
        tensor: name, for messages.
        wanted: bytes that shape and type need.

    Raises:
        ModelError: other bytes than wanted, or bytes that the file does not have.
    """
    size, end = piece.path.stat().st_size, piece.offset + piece.length
    if piece.length != wanted:
        raise ModelError(
            f"Tensor '{tensor}' declares a shape of {wanted} bytes, but {piece.length} bytes of data "
            f"(in '{piece.path}'). The model is damaged."
        )
    if end > size:
        raise ModelError(
            f"External data of tensor '{tensor}' is cut short: bytes {piece.offset} to {end} wanted, "
            f"'{piece.path}' has {size}. Fetch the file again."
        )
    return piece


def copy_bytes(piece: FileSlice, target: int) -> None:
    """Append a slice to the open file descriptor `target`, inside the kernel where it can.

    Raises:
        ModelError: the source is shorter than it was.
        OSError: the target cannot be written.
    """
    source = os.open(piece.path, os.O_RDONLY | _BINARY)
    try:
        done = 0
        while done < piece.length:
            count = _copy_some(source, target, piece.offset + done, min(piece.length - done, _CHUNK))
            if count == 0:
                raise _shorter(piece, piece.length - done)
            done += count
    finally:
        os.close(source)


def _copy_some(source: int, target: int, offset: int, count: int) -> int:
    """Copy up to `count` bytes; `copy_file_range` where kernel and file systems offer it."""
    if hasattr(os, "copy_file_range"):
        try:
            copied = os.copy_file_range(source, target, count, offset_src=offset)
            if copied:  # some file systems say 0 where reading finds bytes
                return copied
        except OSError as error:
            if error.errno not in _NO_KERNEL_COPY:
                raise
    os.lseek(source, offset, os.SEEK_SET)
    data = os.read(source, count)
    write_all(target, data)
    return len(data)


def create(path: Path) -> int:
    """Open a file that must not exist yet for writing; returns its descriptor.

    Raises:
        OSError: it exists, or its folder cannot be written.
    """
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o644)


def write_all(target: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of `data` to a file descriptor, however many calls it takes."""
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(target, view) :]


_NO_KERNEL_COPY = frozenset({1, 18, 22, 38, 95})  # EPERM, EXDEV, EINVAL, ENOSYS, EOPNOTSUPP
