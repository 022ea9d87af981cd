"""Samples from files of arrays: one array an input, the first axis counting samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from onnxfq.arrays import Array
from onnxfq.feeds.arrays_by_name import are_one_sample, cut, only_input
from onnxfq.feeds.feed import Feed
from onnxfq.signature import Signature
from onnxfq.system.archive import StoredArray, open_archive, open_array

_NAMELESS = "arr_0"  # what numpy.savez calls an array that it is given without a name


def read_npz(path: Path, signature: Signature, *, whole: bool = False) -> Iterator[tuple[Feed, str]]:
    """Each sample with the words that say where it stands, as `arrays_by_name.cut` makes them.

    Args:
        path: the file.
        signature: the model's inputs.
        whole: the file is one sample in any case.

    Raises:
        DataError: the file cannot be read, an input is unknown, or the arrays disagree about the number of samples.
    """
    with _opened(path, signature) as arrays:
        yield from cut(arrays, signature, path.name, whole=whole)


def is_one_sample(path: Path, signature: Signature) -> bool:
    """Whether the arrays of a file are the inputs of one run, and no first axis counts samples.

    Raises:
        DataError: the file cannot be read, or an input is unknown.
    """
    with _opened(path, signature) as arrays:
        return are_one_sample(arrays, signature, path.name)


def read_arrays(path: Path) -> dict[str, Array]:
    """All arrays of a file, whole.

    Raises:
        DataError: it cannot be read, or one takes more than 2 GiB.
    """
    with open_archive(path) as arrays:
        return {name: array.take(array.shape[0]) if array.shape else array.take(1)[0] for name, array in arrays.items()}


@contextmanager
def _opened(path: Path, signature: Signature) -> Iterator[Mapping[str, StoredArray]]:
    """The arrays of a .npz file by name, or that of a .npy file; one without a name is the only input that there is."""
    if path.suffix.lower() == ".npy":
        with open_array(path) as array:
            yield {only_input(signature, f"{path.name} holds"): array}
        return
    with open_archive(path) as arrays:
        nameless = list(arrays) == [_NAMELESS] and _NAMELESS not in {spec.name for spec in signature.inputs}
        yield {only_input(signature, f"{path.name} holds"): arrays[_NAMELESS]} if nameless else arrays
