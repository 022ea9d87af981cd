"""Arrays by input name, cut into samples: their first axis counts them, unless it cannot."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeVar

import numpy as np

from onnxfq.arrays import Array
from onnxfq.errors import DataError
from onnxfq.feeds.check import check_names, shape_text
from onnxfq.feeds.convert import fits, lacks_batch_axis
from onnxfq.feeds.feed import Feed
from onnxfq.feeds.names import role
from onnxfq.signature import Dimension, Signature, TensorSpec

_LABELS = frozenset({"label", "labels"})  # beside the inputs in data that are for training or evaluation too
# What a first axis counts where it is no batch: parts of one sample.
_PARTS = ("seq", "len", "time", "frame", "token", "node", "edge", "point", "atom", "box", "vert", "face", "patch")
_Value = TypeVar("_Value")


class RowReader(Protocol):
    """An array that is read row by row, or as a whole."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions."""
        ...

    @property
    def ndim(self) -> int:
        """How many."""
        ...

    def take(self, rows: int) -> Array:
        """The next rows."""
        ...

    def all(self) -> Array:
        """The whole array."""
        ...


def cut(
    arrays: Mapping[str, RowReader], signature: Signature, name: str, *, whole: bool = False
) -> Iterator[tuple[Feed, str]]:
    """Each sample with the words that say where it stands.

    An array with as many axes as the input is cut along its first into batches of one (or of the size that the model
    fixes, what is left over being dropped); with one axis more, each element is a whole input. Where first axes differ,
    and the model allows that, or an array is one element of a batch, or the first axis counts parts of a sample (nodes,
    points), all arrays together are one sample.

    Args:
        arrays: by input name.
        signature: the model's inputs.
        name: of what holds them, for messages.
        whole: they are one sample in any case.

    Raises:
        DataError: an input is unknown, or the arrays disagree about the number of samples.
    """
    arrays = without_labels(arrays, signature)
    check_names(arrays, signature, name)
    specs = signature.feedable
    if arrays and (whole or _is_one_sample(arrays, specs)):
        yield {key: array.all() for key, array in arrays.items()}, name
        return
    for index in range(_count(arrays, specs, name)):
        yield {key: _sample(array, specs[key]) for key, array in arrays.items()}, f"sample {index + 1} of {name}"


def are_one_sample(arrays: Mapping[str, RowReader], signature: Signature, name: str) -> bool:
    """Whether arrays are the inputs of one run, and no first axis counts samples.

    Raises:
        DataError: an input is unknown.
    """
    arrays = without_labels(arrays, signature)
    check_names(arrays, signature, name)
    return _is_one_sample(arrays, signature.feedable)


def without_labels(values: Mapping[Any, _Value], signature: Signature) -> dict[Any, _Value]:
    """What is given by name, without labels that are no input of the model."""
    return {name: value for name, value in values.items() if name in signature.feedable or name not in _LABELS}


def only_input(signature: Signature, what: str) -> str:
    """The input that an array without a name is for.

    Args:
        signature: the model's inputs.
        what: the array, for the message: "data.npy holds".

    Raises:
        DataError: there are several.
    """
    names = [spec.name for spec in signature.inputs if role(spec) == "data"] or [s.name for s in signature.inputs]
    if len(names) == 1:
        return names[0]
    raise DataError(
        f"{what} one array without a name, and the model takes several: {', '.join(names)}. Write a .npz "
        f"file with numpy.savez(path, {', '.join(f'{name}=…' for name in names)}), or give dicts with these names."
    )


def _is_one_sample(arrays: Mapping[str, RowReader], specs: Mapping[str, TensorSpec]) -> bool:
    """Whether every array is a whole input, equal dimensions are equal, and first axes cannot count samples."""
    known: dict[Dimension, int] = {}
    single = False
    for name, array in arrays.items():
        spec = specs[name]
        single |= lacks_batch_axis(array.shape, spec) or _counts_parts(spec)
        shape = (1, *array.shape) if lacks_batch_axis(array.shape, spec) else array.shape
        if spec.shape is None or not fits(spec.shape, shape):
            return False
        names = ["first" if axis == 0 and size is None else size for axis, size in enumerate(spec.shape)]
        if any(known.setdefault(size, got) != got for size, got in zip(names, shape, strict=True) if size is not None):
            return False
    return single or len({array.shape[0] // _batch(array, specs[name]) for name, array in arrays.items()}) > 1


def _counts_parts(spec: TensorSpec) -> bool:
    """Whether the first axis of an input is named after parts of a sample: `num_nodes`, and not `batch`."""
    first = spec.shape[0] if spec.shape else None
    return isinstance(first, str) and any(re.search(rf"(^|_|\d){part}", first.lower()) for part in _PARTS)


def _count(arrays: Mapping[str, RowReader], specs: Mapping[str, TensorSpec], name: str) -> int:
    """How many samples the arrays hold, which all of them must agree on."""
    wrong = [
        f"{key} has shape {shape_text(array.shape)}, wanted {shape_text(specs[key].shape)}"
        for key, array in arrays.items()
        if array.ndim == 0 or not (_is_stacked(array, specs[key]) or array.ndim == _rank(specs[key], array))
    ]
    if wrong:
        raise DataError(f"The data do not fit the model (in {name}): {'; '.join(wrong)}.")
    counts = {key: array.shape[0] // _batch(array, specs[key]) for key, array in arrays.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{key}: {count}" for key, count in counts.items())
        raise DataError(f"The arrays in {name} hold different numbers of samples (got {listed}). Give as many of each.")
    return next(iter(counts.values()), 0)


def _rank(spec: TensorSpec, array: RowReader) -> int:
    return array.ndim if spec.shape is None else len(spec.shape)


def _is_stacked(array: RowReader, spec: TensorSpec) -> bool:
    """Whether the first axis stands before the input's own axes; else it is the input's own first axis."""
    return array.ndim == _rank(spec, array) + 1


def _batch(array: RowReader, spec: TensorSpec) -> int:
    """How many rows of an array make a sample: one, unless the model fixes its batch."""
    if _is_stacked(array, spec) or not spec.shape:
        return 1
    first = spec.shape[0]
    return first if isinstance(first, int) and first > 0 else 1


def _sample(array: RowReader, spec: TensorSpec) -> Array:
    """The next sample of an array."""
    if _is_stacked(array, spec):
        return np.asarray(array.take(1)[0])
    return array.take(_batch(array, spec))
