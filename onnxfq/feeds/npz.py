"""Samples from arrays: one array an input, the first axis counting samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from onnxfq.arrays import Array
from onnxfq.errors import DataError
from onnxfq.feeds.check import check_names, shape_text
from onnxfq.feeds.convert import fits, lacks_batch_axis
from onnxfq.feeds.feed import Feed
from onnxfq.feeds.names import role
from onnxfq.signature import Dimension, Signature, TensorSpec
from onnxfq.system.archive import StoredArray, open_archive, open_array

_NAMELESS = "arr_0"  # what numpy.savez calls an array that it is given without a name


def read_npz(path: Path, signature: Signature, *, whole: bool = False) -> Iterator[tuple[Feed, str]]:
    """Each sample with the words that say where it stands.

    An array with as many axes as the input is cut along its first into batches of one (or of the size that the model
    fixes, what is left over being dropped); with one axis more, each element is a whole input. Where first axes differ,
    and the model allows that, or an array is one element of a batch, the file is one sample.

    Args:
        path: the file.
        signature: the model's inputs.
        whole: the file is one sample in any case.

    Raises:
        DataError: the file cannot be read, an input is unknown, or the arrays disagree about the number of samples.
    """
    with _opened(path, signature) as arrays:
        check_names(arrays, signature, path.name)
        specs = signature.feedable
        if arrays and (whole or _is_one_sample(arrays, specs)):
            yield {name: array.all() for name, array in arrays.items()}, path.name
            return
        for index in range(_count(arrays, specs, path)):
            where = f"sample {index + 1} of {path.name}"
            yield {name: _sample(array, specs[name]) for name, array in arrays.items()}, where


def is_one_sample(path: Path, signature: Signature) -> bool:
    """Whether the arrays of a file are the inputs of one run, and no first axis counts samples.

    Raises:
        DataError: the file cannot be read, or an input is unknown.
    """
    with _opened(path, signature) as arrays:
        check_names(arrays, signature, path.name)
        return _is_one_sample(arrays, signature.feedable)


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
            yield {_only_input(path, signature): array}
        return
    with open_archive(path) as arrays:
        nameless = list(arrays) == [_NAMELESS] and _NAMELESS not in {spec.name for spec in signature.inputs}
        yield {_only_input(path, signature): arrays[_NAMELESS]} if nameless else arrays


def _only_input(path: Path, signature: Signature) -> str:
    """The input that an array without a name is for.

    Raises:
        DataError: there are several.
    """
    names = [spec.name for spec in signature.inputs if role(spec) == "data"] or [s.name for s in signature.inputs]
    if len(names) == 1:
        return names[0]
    raise DataError(
        f"{path.name} holds one array without a name, and the model takes several: {', '.join(names)}. Write a .npz "
        f"file with numpy.savez(path, {', '.join(f'{name}=…' for name in names)})."
    )


def _is_one_sample(arrays: Mapping[str, StoredArray], specs: Mapping[str, TensorSpec]) -> bool:
    """Whether every array is a whole input, equal dimensions are equal, and first axes cannot count samples."""
    known: dict[Dimension, int] = {}
    single = False
    for name, array in arrays.items():
        spec = specs[name]
        single |= lacks_batch_axis(array.shape, spec)
        shape = (1, *array.shape) if lacks_batch_axis(array.shape, spec) else array.shape
        if spec.shape is None or not fits(spec.shape, shape):
            return False
        names = ["first" if axis == 0 and size is None else size for axis, size in enumerate(spec.shape)]
        if any(known.setdefault(size, got) != got for size, got in zip(names, shape, strict=True) if size is not None):
            return False
    return single or len({array.shape[0] // _batch(array, specs[name]) for name, array in arrays.items()}) > 1


def _count(arrays: Mapping[str, StoredArray], specs: Mapping[str, TensorSpec], path: Path) -> int:
    """How many samples the arrays hold, which all of them must agree on."""
    wrong = [
        f"{name} has shape {shape_text(array.shape)}, wanted {shape_text(specs[name].shape)}"
        for name, array in arrays.items()
        if array.ndim == 0 or not (_is_stacked(array, specs[name]) or array.ndim == _rank(specs[name], array))
    ]
    if wrong:
        raise DataError(f"The data do not fit the model (in {path.name}): {'; '.join(wrong)}.")
    counts = {name: array.shape[0] // _batch(array, specs[name]) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise DataError(
            f"The arrays in {path.name} hold different numbers of samples (got {listed}). Give as many of each."
        )
    return next(iter(counts.values()), 0)


def _rank(spec: TensorSpec, array: StoredArray) -> int:
    return array.ndim if spec.shape is None else len(spec.shape)


def _is_stacked(array: StoredArray, spec: TensorSpec) -> bool:
    """Whether the first axis stands before the input's own axes; else it is the input's own first axis."""
    return array.ndim == _rank(spec, array) + 1


def _batch(array: StoredArray, spec: TensorSpec) -> int:
    """How many rows of an array make a sample: one, unless the model fixes its batch."""
    if _is_stacked(array, spec) or not spec.shape:
        return 1
    first = spec.shape[0]
    return first if isinstance(first, int) and first > 0 else 1


def _sample(array: StoredArray, spec: TensorSpec) -> Array:
    """The next sample of an array."""
    if _is_stacked(array, spec):
        return np.asarray(array.take(1)[0])
    return array.take(_batch(array, spec))
