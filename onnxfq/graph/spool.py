"""A growing file of tensors, aligned so that runtimes can map them into memory."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from onnxfq.graph.files import FileSlice, copy_bytes, create, write_all

PAGE = 4096  # ONNX asks for page-aligned offsets so that tensors can be mapped
LINE = 64  # small tensors need not waste a page


class Spool:
    """Appends arrays and slices of other files; remembers nothing but its length."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.length = 0
        self._shared: dict[FileSlice, int] = {}
        self._descriptor = create(path)

    def __enter__(self) -> Self:
        """Return itself; leaving closes the file."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def append(self, *parts: npt.NDArray[Any]) -> FileSlice:
        """Append the bytes of an array (little endian, C order), given whole or as its rows in several parts."""
        nbytes = sum(part.nbytes for part in parts)
        offset = self._align(nbytes)
        for part in parts:
            write_all(self._descriptor, np.ascontiguousarray(part).view(np.uint8).data if part.nbytes else b"")
        self.length = offset + nbytes
        return FileSlice(self.path, offset, nbytes)

    def append_slice(self, piece: FileSlice) -> FileSlice:
        """Append bytes of another file; bytes that were appended before are shared."""
        if piece not in self._shared:
            offset = self._align(piece.length)
            copy_bytes(piece, self._descriptor)
            self.length = offset + piece.length
            self._shared[piece] = offset
        return FileSlice(self.path, self._shared[piece], piece.length)

    def _align(self, nbytes: int) -> int:
        unit = PAGE if nbytes >= PAGE else LINE
        offset = -(-self.length // unit) * unit
        os.lseek(self._descriptor, offset, os.SEEK_SET)
        return offset
