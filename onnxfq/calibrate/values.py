"""What is kept between two segments: arrays by name and sample, in memory up to a limit and on disk beyond it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from onnxfq.session import Array


@dataclass(frozen=True, slots=True)
class _OnDisk:
    offset: int
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]


@dataclass
class _Kept:
    """One value of all samples; the file exists once something was spilled."""

    samples: dict[int, Array | _OnDisk] = field(default_factory=dict)
    file: Path | None = None
    length: int = 0


class Values:
    """Keeps arrays until they are freed.

    Args:
        memory: bytes to hold in memory; what comes beyond that goes to disk.
        folder: for the files.
    """

    def __init__(self, memory: int, folder: Path) -> None:
        self.memory = memory
        self.spilled = 0
        self._folder = folder
        self._held = 0
        self._kept: dict[str, _Kept] = {}
        self._files = 0

    def __contains__(self, name: str) -> bool:
        """Whether a value is kept."""
        return name in self._kept

    def put(self, name: str, sample: int, array: Array) -> None:
        """Keep a value of a sample, in place of an earlier one of that name.

        Raises:
            OSError: it does not fit in memory, and the disk does not take it.
        """
        kept = self._kept.setdefault(name, _Kept())
        before = kept.samples.pop(sample, None)
        self._held -= 0 if before is None or isinstance(before, _OnDisk) else before.nbytes
        if self._held + array.nbytes <= self.memory or not array.nbytes:
            kept.samples[sample] = array
            self._held += array.nbytes
        else:
            kept.samples[sample] = self._spill(kept, array)

    def get(self, name: str, sample: int) -> Array:
        """A value of a sample.

        Raises:
            KeyError: it is not kept.
            OSError: it cannot be read back.
        """
        kept = self._kept[name]
        value = kept.samples[sample]
        if not isinstance(value, _OnDisk):
            return value
        count = int(np.prod(value.shape))
        with (kept.file or self._folder).open("rb") as file:
            file.seek(value.offset)
            return np.fromfile(file, value.dtype, count).reshape(value.shape)

    def free(self, name: str) -> None:
        """Forget a value of all samples."""
        kept = self._kept.pop(name, None)
        if kept is None:
            return
        self._held -= sum(a.nbytes for a in kept.samples.values() if not isinstance(a, _OnDisk))
        if kept.file is not None:
            kept.file.unlink()

    def clear(self) -> None:
        """Forget everything, and leave no file."""
        for name in list(self._kept):
            self.free(name)

    def _spill(self, kept: _Kept, array: Array) -> _OnDisk:
        if kept.file is None:
            kept.file = self._folder / f"kept-{self._files}"
            self._files += 1
        data = np.ascontiguousarray(array)
        with kept.file.open("ab") as file:
            file.write(data.reshape(-1).view(np.uint8).data)
        offset, kept.length = kept.length, kept.length + data.nbytes
        self.spilled += data.nbytes
        return _OnDisk(offset, data.dtype, data.shape)
