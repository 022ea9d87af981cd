"""Arrays in .npz and .npy files, read as far as they are wanted. Nothing that a file says about itself is believed.

What its headers claim is held against the bytes that are there before memory is taken for it; a compressed file gives
a sample at a time, so that a few kilobytes which unpack to gigabytes take no more memory than one sample of them.

Source: the .npy format, numpy.lib.format.
"""

from __future__ import annotations

import ast
import json
import math
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from onnxfq.errors import DataError

MOST_BYTES = 1 << 31  # of what is unpacked at once
_CHUNK = 1 << 20
_MAGIC = b"\x93NUMPY"
_LENGTH_BYTES = {(1, 0): 2, (2, 0): 4}
_LONGEST_HEADER = 10_000
_MOST_DIMENSIONS = 32
_HIGHEST_RATIO = 1032  # of deflate
_SUFFIX = ".npy"
_ABOUT = "about"  # the entry that says what the others are
_DAMAGED = (
    *(OSError, ValueError, EOFError, RuntimeError, TypeError, KeyError, IndexError, SyntaxError, OverflowError),
    *(MemoryError, AttributeError, RecursionError, zipfile.BadZipFile, zlib.error),
)


class _DamagedError(Exception):
    """Something in a file is not as it must be."""


@dataclass
class StoredArray:
    """One array of a file, of which rows are read in order.

    Attributes:
        shape: dimensions.
        dtype: of numbers or text.
        path: the file, for messages.
        name: of the array.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    path: Path
    name: str
    _stream: IO[bytes] = field(repr=False)
    _turned: bool = False  # columns first
    _compressed: bool = False
    _whole: npt.NDArray[Any] | None = field(default=None, repr=False)
    _row: int = 0

    @property
    def ndim(self) -> int:
        """How many dimensions."""
        return len(self.shape)

    def take(self, rows: int) -> npt.NDArray[Any]:
        """The next rows.

        Raises:
            DataError: they are not there, or take more than 2 GiB.
        """
        if self._turned:
            self._whole = self._read(self.shape[::-1]).T if self._whole is None else self._whole
            self._row += rows
            return self._whole[self._row - rows : self._row]
        return self._read((rows, *self.shape[1:]))

    def all(self) -> npt.NDArray[Any]:
        """The whole array, if nothing was taken yet.

        Raises:
            DataError: it is not there, or takes more than 2 GiB and is compressed.
        """
        return self.take(self.shape[0]) if self.shape else self._read(())

    def _read(self, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        nbytes = math.prod(shape) * self.dtype.itemsize
        if self._compressed and nbytes > MOST_BYTES:
            raise DataError(
                f"'{self.name}' in {self.path} takes {nbytes} bytes a sample when unpacked (at most {MOST_BYTES} are "
                "read at once). Write shorter samples, or uncompressed with numpy.savez."
            )
        with _naming_file(self.path):
            array = np.empty(shape, self.dtype)
            left = array.reshape(-1).view(np.uint8).data if nbytes else memoryview(b"")
            while left:
                data = self._stream.read(min(len(left), _CHUNK))
                if not data:
                    raise _DamagedError(f"'{self.name}' breaks off")
                left[: len(data)] = data
                left = left[len(data) :]
            return array


@contextmanager
def open_archive(path: Path) -> Iterator[dict[str, StoredArray]]:
    """The arrays of a .npz file by name, not read yet.

    Raises:
        DataError: it is none, is damaged, or holds objects.
    """
    with ExitStack() as stack:
        with _naming_file(path):
            file = stack.enter_context(zipfile.ZipFile(path))
            size = path.stat().st_size
            arrays = {}
            for info in file.infolist():
                name = info.filename.removesuffix(_SUFFIX)
                if name in arrays or name == info.filename:
                    raise _DamagedError(f"{info.filename!r} is not an array, or is there twice")
                _check_sizes(info, size)
                compressed = info.compress_type != zipfile.ZIP_STORED
                stream = stack.enter_context(file.open(info))
                arrays[name] = _open(stream, info.file_size, path, name, compressed=compressed)
        yield arrays


@contextmanager
def open_array(path: Path) -> Iterator[StoredArray]:
    """The array of a .npy file, not read yet.

    Raises:
        DataError: it is none, is damaged, or holds objects.
    """
    with ExitStack() as stack:
        with _naming_file(path):
            stream = stack.enter_context(path.open("rb"))
            array = _open(stream, path.stat().st_size, path, path.name)
        yield array


def write_archive(stream: IO[bytes], arrays: Mapping[str, npt.NDArray[Any]], facts: object) -> None:
    """Write arrays of any type and facts that JSON can hold; nothing is pickled.

    Raises:
        OSError: it cannot be written.
    """
    types = {name: array.dtype.name for name, array in arrays.items() if array.dtype.kind == "V"}
    about = np.frombuffer(json.dumps({"types": types, "facts": facts}).encode(), np.uint8)
    plain = {name: _plain(array) for name, array in arrays.items()}
    np.savez(stream, allow_pickle=False, **plain, **{_ABOUT: about})


def read_archive(path: Path) -> tuple[dict[str, npt.NDArray[Any]], Any]:
    """What `write_archive` wrote: arrays by name, and the facts.

    Raises:
        DataError: the file cannot be read as such.
    """
    with open_archive(path) as stored:
        arrays = {name: array.all() for name, array in stored.items()}
    with _naming_file(path):
        about = json.loads(arrays.pop(_ABOUT).tobytes())
        for name, kind in about["types"].items():
            arrays[name] = arrays[name].view(np.dtype(getattr(ml_dtypes, kind)))
        return arrays, about["facts"]


def _plain(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same in a type that .npz files know."""
    return array.view(f"u{array.dtype.itemsize}") if array.dtype.kind == "V" else array  # bfloat16 and its like


def _check_sizes(info: zipfile.ZipInfo, size: int) -> None:
    """Whether what the archive says of an entry can be."""
    stored = info.compress_type == zipfile.ZIP_STORED
    most = info.compress_size * (1 if stored else _HIGHEST_RATIO)
    if not stored and info.compress_type != zipfile.ZIP_DEFLATED:
        raise _DamagedError(f"{info.filename!r} is compressed in a way that numpy does not use")
    if info.compress_size > size or info.file_size > most:
        raise _DamagedError(f"{info.filename!r} claims {info.file_size} bytes, which are not there")


def _open(stream: IO[bytes], size: int, path: Path, name: str, *, compressed: bool = False) -> StoredArray:
    start = stream.read(len(_MAGIC) + 2)
    count = _LENGTH_BYTES.get((start[-2], start[-1])) if start.startswith(_MAGIC) and len(start) == 8 else None
    if count is None:
        raise _DamagedError(f"'{name}' is not an array of numbers or text")
    length = int.from_bytes(stream.read(count), "little")
    if length > _LONGEST_HEADER:
        raise _DamagedError(f"'{name}' has a header of {length} bytes")
    shape, dtype, turned = _described(stream.read(length).decode("latin1"), name)
    wanted, there = math.prod(shape) * dtype.itemsize, size - len(start) - count - length
    if wanted > there:
        raise _DamagedError(f"'{name}' declares a shape {list(shape)} of {wanted} bytes, but {there} bytes of data")
    return StoredArray(shape, dtype, path, name, stream, turned and len(shape) > 1, compressed)


def _described(header: str, name: str) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Shape, type, and whether the first index varies fastest."""
    fields = ast.literal_eval(header.strip())
    with warnings.catch_warnings(action="ignore"):  # about types that are refused here anyway
        dtype = np.dtype(fields["descr"])
    shape, turned = fields["shape"], fields["fortran_order"]
    if dtype.hasobject:
        raise _DamagedError(f"'{name}' holds Python objects, which are never read (allow_pickle=False)")
    if dtype.names or dtype.subdtype or not dtype.itemsize:
        raise _DamagedError(f"'{name}' is not an array of numbers or text (got {dtype})")
    if not isinstance(shape, tuple) or len(shape) > _MOST_DIMENSIONS or not isinstance(turned, bool):
        raise _DamagedError(f"'{name}' has a garbled header")
    if not all(type(size) is int and 0 <= size < 1 << 62 for size in shape):
        raise _DamagedError(f"'{name}' declares an impossible shape {shape}")
    return shape, dtype, turned


@contextmanager
def _naming_file(path: Path) -> Iterator[None]:
    """Say of damage which file it is in."""
    try:
        yield
    except (_DamagedError, *_DAMAGED) as error:
        reason = str(error) or type(error).__name__
        raise DataError(
            f"{path} cannot be read as arrays: {reason}. Write it with numpy.savez, without objects."
        ) from error
