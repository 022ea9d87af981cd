"""Arrays from .npz files that lie about themselves: nothing is believed, nothing large is taken for a small file."""

from __future__ import annotations

import struct
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from onnxfq.errors import DataError
from onnxfq.system import archive
from onnxfq.system.archive import open_archive
from support.models import Array

HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 3), }"


def npy(header: str, data: bytes = bytes(48), *, version: tuple[int, int] = (1, 0), length: int | None = None) -> bytes:
    """A .npy file with any header."""
    text = header.encode()
    count = struct.pack("<H" if version == (1, 0) else "<I", len(text) if length is None else length)
    return b"\x93NUMPY" + bytes(version) + count + text + data


def zipped(path: Path, *entries: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in entries:
            file.writestr(name, data)
    return path


def read(path: Path) -> list[Array]:
    with open_archive(path) as found:
        return [array.all() for array in found.values()]


def refused(path: Path, match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path} cannot be read as arrays: ")


DTYPES = st.one_of(
    arrays.integer_dtypes(), arrays.floating_dtypes(), st.sampled_from([np.dtype(bool), np.dtype("<U3")])
)


@given(st.data())
def test_whatever_numpy_writes_is_read(data: st.DataObject) -> None:
    shape = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    array: Array = data.draw(arrays.arrays(DTYPES, shape))
    turned = data.draw(st.booleans())
    save = np.savez_compressed if data.draw(st.booleans()) else np.savez
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.npz")
        save(path, x=np.asfortranarray(array) if turned else array)
        with open_archive(path) as found:
            got = found["x"].all()
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize("turned", [False, True])
def test_rows_are_read_one_after_another(turned: bool, tmp_path: Path) -> None:
    array = np.arange(12).reshape(4, 3)
    np.savez(tmp_path / "x.npz", x=np.asfortranarray(array) if turned else array, y=array + 100)
    with open_archive(tmp_path / "x.npz") as found:
        for rows in (slice(0, 1), slice(1, 3), slice(3, 4)):
            count = rows.stop - rows.start
            np.testing.assert_array_equal(found["x"].take(count), array[rows])
            np.testing.assert_array_equal(found["y"].take(count), array[rows] + 100)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (npy(HEADER, bytes(47)), "of 48 bytes, but 47 bytes of data"),
        (npy(HEADER.replace("(4, 3)", f"({1 << 40}, {1 << 40})")), "but 48 bytes of data"),
        (npy(HEADER.replace("(4, 3)", f"({1 << 80},)")), "impossible shape"),
        (npy(HEADER.replace("(4, 3)", "(-1, 3)")), "impossible shape"),
        (npy(HEADER.replace("(4, 3)", "(True, 3)")), "impossible shape"),
        (npy(HEADER.replace("(4, 3)", str((1,) * 33))), "garbled header"),
        (npy(HEADER.replace("(4, 3)", "[4, 3]")), "garbled header"),
        (npy(HEADER.replace("False", "0")), "garbled header"),
        (npy(HEADER.replace("<f4", "|O")), r"Python objects, .*allow_pickle=False"),
        (npy(HEADER.replace("<f4", "f4,f4")), "not an array of numbers or text"),
        (npy(HEADER.replace("<f4", "<U0")), "not an array of numbers or text"),
        (npy(HEADER.replace("'<f4'", "('<f4', (1000, 1000))")), "not an array of numbers or text"),
        (npy(HEADER.replace("'<f4'", "5")), "cannot be read"),
        (npy("[" * 3000), "cannot be read"),
        (npy("-" * 9000 + "1"), "cannot be read"),
        (npy("'''"), "cannot be read"),
        (npy("\\"), "cannot be read"),
        (npy("{}"), "'descr'"),
        (npy("__import__('os').getcwd()"), "cannot be read"),
        (npy(HEADER, version=(2, 0), length=(1 << 32) - 1), "a header of 4294967295 bytes"),
        (npy(HEADER, version=(3, 0)), "not an array of numbers or text"),
        (b"\x93NUMPY\x01", "not an array of numbers or text"),
        (b"\x80\x04N.", "not an array of numbers or text"),
        (b"", "not an array of numbers or text"),
    ],
)
def test_headers_that_lie(data: bytes, match: str, tmp_path: Path) -> None:
    refused(zipped(tmp_path / "x.npz", ("x.npy", data)), match)


def test_entries_that_are_no_arrays_or_there_twice(tmp_path: Path) -> None:
    refused(zipped(tmp_path / "x.npz", ("x.txt", npy(HEADER))), "'x.txt' is not an array")
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = zipped(tmp_path / "y.npz", ("x.npy", npy(HEADER)), ("x.npy", npy(HEADER)))
    refused(path, "there twice")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_without_a_bound(method: int, tmp_path: Path) -> None:
    refused(zipped(tmp_path / "x.npz", ("x.npy", npy(HEADER)), method=method), "in a way that numpy does not use")


@pytest.mark.parametrize(
    ("offset", "value", "match"),
    [
        (20, 1 << 30, "claims|cannot be read"),  # compressed size
        (24, (1 << 31) - 1, "claims"),  # size
        (8, 1, "encrypted"),  # flags
        (10, 99, "in a way that numpy does not use"),  # method
        (42, 1 << 20, "cannot be read"),  # place
        (16, 12345, "(?i)crc"),  # checksum
    ],
)
def test_directories_that_lie(offset: int, value: int, match: str, tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.npz", ("x.npy", npy(HEADER)))
    data = bytearray(path.read_bytes())
    struct.pack_into("<H" if offset in (8, 10) else "<I", data, data.find(b"PK\x01\x02") + offset, value)
    path.write_bytes(data)
    refused(path, match)


def test_a_small_file_takes_little_memory_however_much_it_unpacks_to(tmp_path: Path) -> None:
    header = HEADER.replace("(4, 3)", "(50000, 1000)")  # 200 MB in 200 kB
    path = zipped(tmp_path / "x.npz", ("x.npy", npy(header, bytes(200_000_000))), method=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 400_000
    tracemalloc.start()
    with open_archive(path) as found:
        assert found["x"].take(10).shape == (10, 1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_one_sample_that_unpacks_to_very_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_BYTES", 1000)
    data = npy(HEADER.replace("(4, 3)", "(2, 251)"), bytes(2008))
    path = zipped(tmp_path / "x.npz", ("x.npy", data), method=zipfile.ZIP_DEFLATED)
    with open_archive(path) as found, pytest.raises(DataError, match="takes 1004 bytes a sample when unpacked"):
        found["x"].take(1)
    with open_archive(zipped(tmp_path / "y.npz", ("x.npy", data))) as found:
        assert found["x"].take(1).shape == (1, 251)
