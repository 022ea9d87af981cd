"""Samples from arrays: one array an input, the first axis counting samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from onnxfq.arrays import Array
from onnxfq.errors import DataError
from onnxfq.feeds.check import check_names, shape_text
from onnxfq.feeds.feed import Feed
from onnxfq.feeds.generate import element_type
from onnxfq.signature import Signature, TensorSpec
from onnxfq.system.archive import StoredArray, open_archive


def read_npz(path: Path, signature: Signature) -> Iterator[tuple[Feed, str]]:
    """Each sample with the words that say where it stands.

    An array with as many axes as the input is cut along its first into batches of one (or of the size that the model
    fixes, what is left over being dropped); with one axis more, each element is a whole input.

    Raises:
        DataError: the file cannot be read, an input is unknown, or the arrays disagree about the number of samples.
    """
    with open_archive(path) as arrays:
        check_names(arrays, signature, path.name)
        specs = {spec.name: spec for spec in signature.inputs}
        for index in range(_count(arrays, specs, path)):
            where = f"sample {index + 1} of {path.name}"
            yield {name: _sample(array, specs[name]) for name, array in arrays.items()}, where


def read_arrays(path: Path) -> dict[str, Array]:
    """All arrays of a file, whole.

    Raises:
        DataError: it cannot be read, or one takes more than 2 GiB.
    """
    with open_archive(path) as arrays:
        return {name: array.take(array.shape[0]) if array.shape else array.take(1)[0] for name, array in arrays.items()}


def _to_type(array: Array, spec: TensorSpec) -> Array:
    """A .npz file has no bfloat16: float32 stands for it."""
    if spec.dtype == "bfloat16" and array.dtype == np.float32:
        return array.astype(element_type(spec))
    return array


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
        return _to_type(np.asarray(array.take(1)[0]), spec)
    return _to_type(array.take(_batch(array, spec)), spec)
