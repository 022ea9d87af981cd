"""A growing file of tensors, aligned so that runtimes can map them into memory."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from onnxfq.graph.external_data import FileSlice, copy_bytes, create, write_all

PAGE = 4096  # ONNX asks for page-aligned offsets so that tensors can be mapped
LINE = 64  # small tensors need not waste a page


class TensorFile:
    """Appends arrays and slices of other files; remembers nothing but its length.

    One array at a time is written behind the caller's back, who may work on the next. What goes wrong with it is raised
    by whatever is called next, at the latest when the `with` block ends.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.length = 0
        self._shared: dict[FileSlice, int] = {}
        self._descriptor = create(path)
        self._writer = ThreadPoolExecutor(1)
        self._written: Future[None] | None = None

    def __enter__(self) -> Self:
        """Return itself; leaving closes the file."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self._writer.shutdown()
            os.close(self._descriptor)

    def flush(self) -> None:
        """Wait until everything appended stands in the file.

        Raises:
            OSError: it cannot be written.
        """
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def append(self, *parts: npt.NDArray[Any]) -> FileSlice:
        """Append the bytes of an array (little endian, C order), given whole or as its rows in several parts.

        The parts must not change before the next call.
        """
        self.flush()
        nbytes = sum(part.nbytes for part in parts)
        offset = self._align(nbytes)
        self._written = self._writer.submit(self._write, parts)
        self.length = offset + nbytes
        return FileSlice(self.path, offset, nbytes)

    def append_slice(self, piece: FileSlice) -> FileSlice:
        """Append bytes of another file; bytes that were appended before are shared."""
        self.flush()
        if piece not in self._shared:
            offset = self._align(piece.length)
            copy_bytes(piece, self._descriptor)
            self.length = offset + piece.length
            self._shared[piece] = offset
        return FileSlice(self.path, self._shared[piece], piece.length)

    def _write(self, parts: tuple[npt.NDArray[Any], ...]) -> None:
        for part in parts:
            write_all(self._descriptor, np.ascontiguousarray(part).view(np.uint8).data if part.nbytes else b"")

    def _align(self, nbytes: int) -> int:
        unit = PAGE if nbytes >= PAGE else LINE
        offset = -(-self.length // unit) * unit
        os.lseek(self._descriptor, offset, os.SEEK_SET)
        return offset
