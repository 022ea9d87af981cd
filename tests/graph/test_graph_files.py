"""Copying between files, and files that change while they are read."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from onnxfq.errors import ModelError
from onnxfq.graph import TensorFile
from onnxfq.graph.external_data import FileSlice
from support.models import Array


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(bytes(range(256)) * 100)
    return path


def no_kernel_copy(number: int) -> object:
    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [None, errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM])
def test_copies_with_and_without_the_kernels_help(
    number: int | None, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if number is not None:
        monkeypatch.setattr(os, "copy_file_range", no_kernel_copy(number), raising=False)
    else:
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    with TensorFile(tmp_path / "tensor_file") as tensor_file:
        first = tensor_file.append_slice(FileSlice(source, 3, 5000))
        again = tensor_file.append_slice(FileSlice(source, 3, 5000))
        second = tensor_file.append_slice(FileSlice(source, 1, 70))
    assert first == again == FileSlice(tmp_path / "tensor_file", 0, 5000)
    assert second.offset == 5056
    written, whole = (tmp_path / "tensor_file").read_bytes(), source.read_bytes()
    assert written[:5000] == whole[3:5003]
    assert written[5056:] == whole[1:71]
    assert tensor_file.length == len(written)


def test_other_errors_of_the_kernel_are_told(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "copy_file_range", no_kernel_copy(errno.ENOSPC), raising=False)
    with TensorFile(tmp_path / "tensor_file") as tensor_file, pytest.raises(OSError, match="No space left"):
        tensor_file.append_slice(FileSlice(source, 0, 10))


def test_arrays_of_every_type_and_layout(tmp_path: Path) -> None:
    arrays: list[Array] = [
        np.arange(2000, dtype=np.float32).reshape(40, 50).T,
        np.float64(3.5) * np.ones(()),
        np.empty((0, 7), np.int64),
        np.arange(9, dtype=np.uint8)[::2],
    ]
    with TensorFile(tmp_path / "tensor_file") as tensor_file:
        slices = [tensor_file.append(array) for array in arrays]
    for array, piece in zip(arrays, slices, strict=True):
        assert bytes(piece.read()) == array.tobytes()
        assert piece.offset % (4096 if piece.length >= 4096 else 64) == 0


def test_a_source_that_shrinks(source: Path, tmp_path: Path) -> None:
    piece = FileSlice(source, 20000, 5000)
    os.truncate(source, 22000)
    with pytest.raises(ModelError, match=r"is shorter than it was: .* run again when it is complete"):
        piece.read()
    with (
        TensorFile(tmp_path / "tensor_file") as tensor_file,
        pytest.raises(ModelError, match="is shorter than it was: 3000 of"),
    ):
        tensor_file.append_slice(piece)


def test_a_source_that_goes(source: Path) -> None:
    source.unlink()
    with pytest.raises(ModelError, match="Cannot read"):
        FileSlice(source, 0, 1).read()


def test_an_existing_spool_is_never_written_over(source: Path) -> None:
    with pytest.raises(FileExistsError):
        TensorFile(source)
    assert source.stat().st_size == 25600


def append_and(call: str, path: Path) -> None:
    with TensorFile(path) as tensor_file:
        tensor_file.append(np.ones(5000))
        if call == "flush":
            tensor_file.flush()
        elif call == "append":
            tensor_file.append(np.ones(5))


@pytest.mark.parametrize("call", ["flush", "append", "leave"])
def test_what_goes_wrong_behind_the_back_is_told_by_the_next_call(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        append_and(call, tmp_path / "tensor_file")
