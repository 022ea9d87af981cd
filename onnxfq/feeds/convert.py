"""Arrays as people have them, turned into what a model takes, where every value survives that.

numpy makes float64 and int64 unless it is told otherwise, other tools int32. What would lose something keeps its type,
for `check` to refuse.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxfq.arrays import Array
from onnxfq.feeds.feed import Feed
from onnxfq.feeds.generate import element_type
from onnxfq.feeds.names import is_float, is_integer
from onnxfq.signature import Dimension, Signature, TensorSpec

PIXELS = np.dtype(np.uint8)  # an image as it is stored: models of floats mostly want it scaled
_NUMBERS = "fiub"


def convert(feed: Mapping[str, Array], signature: Signature) -> Feed:
    """Arrays in the types of the model's inputs, with the batch axis that they may lack; others as they are."""
    specs = signature.feedable
    return {
        name: with_batch_axis(to_type(array, specs[name]), specs[name]) if name in specs else array
        for name, array in feed.items()
    }


def to_type(array: Array, spec: TensorSpec) -> Array:
    """An array in the type of an input; as it is where a value would be lost, or another kind of number is meant."""
    if array.dtype.kind == "O" and all(isinstance(item, str) for item in array.flat):
        return array.astype(str)  # of a type whose bytes are its text
    known = is_float(spec) or is_integer(spec) or spec.dtype == "bool"
    if not known or not _is_number(array):
        return array
    wanted = element_type(spec)
    if array.dtype == wanted or (is_float(spec) and array.dtype == PIXELS):
        return array
    with np.errstate(over="ignore", invalid="ignore"):  # what does not survive is refused below
        cast = array.astype(wanted)
        survives = _stays_finite(array, cast) if is_float(spec) and _is_float(array) else _returns(array, cast)
    return cast if survives else array


def with_batch_axis(array: Array, spec: TensorSpec) -> Array:
    """An array with a first axis of 1, where it lacks the input's own and fits otherwise."""
    return array[np.newaxis] if lacks_batch_axis(array.shape, spec) else array


def lacks_batch_axis(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    """Whether an array is one element of a batch: of all axes of the input, only the first is missing."""
    if not spec.shape or len(shape) != len(spec.shape) - 1:
        return False
    first = spec.shape[0]
    return (first == 1 or not isinstance(first, int)) and fits(spec.shape[1:], shape)


def fits(wanted: tuple[Dimension, ...] | None, got: tuple[int, ...]) -> bool:
    """Whether a shape is one that an input takes."""
    if wanted is None:
        return True
    if len(wanted) != len(got):
        return False
    return all(size == number for size, number in zip(wanted, got, strict=True) if isinstance(size, int))


def _is_number(array: Array) -> bool:
    return array.dtype.kind in _NUMBERS or _is_float(array)


def _is_float(array: Array) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def _stays_finite(array: Array, cast: Array) -> bool:
    """Floats are rounded; what was finite must stay it."""
    return bool((np.isfinite(cast) | ~np.isfinite(array)).all())


def _returns(array: Array, cast: Array) -> bool:
    """Whether casting back gives the same values: 0 and 1 for truth values, whole numbers for integers."""
    back = cast.astype(array.dtype)
    return bool((back == array).all()) and (cast.dtype.kind == "b" or bool((cast == array).all()))
