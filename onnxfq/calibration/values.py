"""What is kept between two segments: arrays by name and sample, in memory up to a limit and on disk beyond it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from onnxfq.arrays import Array
from onnxfq.errors import OutputError


@dataclass(frozen=True, slots=True)
class _Spilled:
    offset: int
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]


@dataclass
class _Kept:
    """One value of all samples; the file exists once something was spilled."""

    samples: dict[int, Array | _Spilled] = field(default_factory=dict)
    file: Path | None = None
    length: int = 0


class Values:
    """Keeps arrays until they are freed.

    Args:
        memory: bytes to hold in memory; what comes beyond that goes to disk, but for texts.
        folder: for the files.

    Attributes:
        held: bytes in memory.
        spilled: bytes that went to disk so far.
    """

    def __init__(self, memory: int, folder: Path) -> None:
        self.memory = memory
        self.spilled = 0
        self._folder = folder
        self.held = 0
        self._kept: dict[str, _Kept] = {}

    def __contains__(self, name: str) -> bool:
        """Whether a value is kept."""
        return name in self._kept

    def put(self, name: str, sample: int, array: Array) -> None:
        """Keep a value of a sample, in place of an earlier one of that name.

        Raises:
            OutputError: it does not fit in memory, and the disk does not take it.
        """
        kept = self._kept.setdefault(name, _Kept())
        before = kept.samples.pop(sample, None)
        self.held -= 0 if before is None or isinstance(before, _Spilled) else before.nbytes
        if self.held + array.nbytes <= self.memory or not array.nbytes or array.dtype.hasobject:
            kept.samples[sample] = array
            self.held += array.nbytes
        else:
            kept.samples[sample] = self._spill(kept, array)

    def get(self, name: str, sample: int) -> Array:
        """A value of a sample.

        Raises:
            KeyError: it is not kept.
            OutputError: it cannot be read back.
        """
        kept = self._kept[name]
        value = kept.samples[sample]
        if not isinstance(value, _Spilled):
            return value
        array = np.empty(value.shape, value.dtype)
        with _told(kept.file or self._folder) as path, path.open("rb") as file:
            file.seek(value.offset)
            if file.readinto(_bytes(array)) != array.nbytes:
                raise OutputError(f"'{path}' was cut short while it was in use. Give a `work_dir` of its own.")
        return array

    def shape(self, name: str, sample: int) -> tuple[int, ...]:
        """The shape of a value of a sample, which is not read for that."""
        return self._kept[name].samples[sample].shape

    def dtype(self, name: str, sample: int) -> np.dtype[np.generic]:
        """The type of a value of a sample, which is not read for that."""
        return self._kept[name].samples[sample].dtype

    def free(self, name: str) -> None:
        """Forget a value of all samples."""
        kept = self._kept.pop(name, None)
        if kept is None:
            return
        self.held -= sum(a.nbytes for a in kept.samples.values() if not isinstance(a, _Spilled))
        if kept.file is not None:
            kept.file.unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget everything, and leave no file."""
        for name in list(self._kept):
            self.free(name)

    def _spill(self, kept: _Kept, array: Array) -> _Spilled:
        if kept.file is None:
            with _told(self._folder) as folder:
                descriptor, name = tempfile.mkstemp(prefix="kept-", dir=folder)
                os.close(descriptor)
            kept.file = Path(name)
        with _told(kept.file) as path, path.open("ab") as file:
            file.write(_bytes(np.ascontiguousarray(array)))
        offset, kept.length = kept.length, kept.length + array.nbytes
        self.spilled += array.nbytes
        return _Spilled(offset, array.dtype, array.shape)


def _bytes(array: Array) -> memoryview:
    """The bytes of a contiguous array, of any type."""
    return array.reshape(-1).view(np.uint8).data


@contextmanager
def _told(path: Path) -> Iterator[Path]:
    """Say what to do about a disk that refuses."""
    try:
        yield path
    except OSError as error:
        raise OutputError(
            f"Cannot keep intermediate values in '{path}' ({error.strerror or error}). Free some disk space, choose "
            "another place with `work_dir`, or allow more `memory`."
        ) from error
