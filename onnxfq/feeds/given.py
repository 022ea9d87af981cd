"""Inputs from Python as people have them: dicts, arrays, tensors, columns, tables, data sets, in any number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxfq.arrays import Array
from onnxfq.errors import DataError
from onnxfq.feeds.arrays_by_name import cut, only_input, without_labels
from onnxfq.feeds.check import check_names
from onnxfq.feeds.feed import Feed
from onnxfq.feeds.text import Text
from onnxfq.feeds.texts import TEXT, as_texts, encode_texts, find_texts
from onnxfq.signature import Signature

_WANTED = "Give one dict for each sample, of arrays by input name"
_NO_ARRAY = (ValueError, TypeError, RuntimeError, OverflowError)
_NO_NUMPY = ("torch.bfloat16",)  # numpy has no such type, and float32 holds all of its values


def read_given(given: object, signature: Signature, text: Text) -> Iterator[tuple[Feed, str]]:
    """Each sample with the words that say where it stands; texts that are blank are passed over.

    Args:
        given: an iterable of samples, each a mapping of arrays by input name, one with "text", a text, a list of texts
            (each a sample of its own), or an array for the only input; or an array or a tensor, whose first axis counts
            samples; or columns: a mapping of arrays (or lists of them) by input name, or a table that turns into
            records. What numpy makes arrays of is an array.
        signature: the model's inputs.
        text: encodes texts.

    Raises:
        DataError: something is no array, or has the name of no input.
        UsageError: text without a tokenizer.
    """
    if hasattr(given, "to_dict") and hasattr(given, "columns"):  # pandas and its like
        given = given.to_dict("records")
    if isinstance(given, Mapping):
        return _from_columns(given, signature, text)
    if _is_array(given):
        return _from_columns({only_input(signature, "The data are"): given}, signature, text)
    if not isinstance(given, Iterable) and not hasattr(given, "__getitem__"):
        raise DataError(f"Expected samples (got {type(given).__name__}). {_WANTED}.")
    return _from_samples(iter(given), signature, text)


def _from_samples(given: Iterable[object], signature: Signature, text: Text) -> Iterator[tuple[Feed, str]]:
    for number, sample in enumerate(given, start=1):
        yield from _from_sample(sample, signature, text, f"sample {number} of those given")


def _from_sample(sample: object, signature: Signature, text: Text, where: str) -> Iterator[tuple[Feed, str]]:
    """A model's inputs, of each text where there are several."""
    if _is_array(sample):
        sample = {only_input(signature, f"{where} is"): sample}
    texts = None if isinstance(sample, Mapping) else as_texts(sample)
    if texts is not None:
        sample = {}
    if not isinstance(sample, Mapping):
        raise DataError(f"Expected a dict of arrays (in {where}; got {type(sample).__name__}). {_WANTED}.")
    if texts is None and TEXT not in signature.feedable:
        texts = find_texts(sample, signature, where)
    if texts is None:
        yield _to_arrays(sample, signature, where), where
        return
    for encoded, place in encode_texts(texts, sample, signature, text, where):
        others = {n: value for n, value in sample.items() if n in signature.feedable and n not in encoded}
        yield encoded | _to_arrays(others, signature, where), place


def _from_columns(given: Mapping[Any, object], signature: Signature, text: Text) -> Iterator[tuple[Feed, str]]:
    """Samples from columns: arrays whose first axis counts them, or lists with an array for each."""
    if TEXT in given and TEXT not in signature.feedable:
        yield from _from_lists(given, signature, text)
        return
    columns = without_labels(given, signature)
    check_names(columns, signature, "the columns given")
    if any(_is_ragged(column) for column in columns.values()):
        yield from _from_lists(columns, signature, text)
        return
    arrays = _to_arrays(columns, signature, "the columns given")
    yield from cut({name: _Held(array) for name, array in arrays.items()}, signature, "the columns given")


def _from_lists(columns: Mapping[Any, object], signature: Signature, text: Text) -> Iterator[tuple[Feed, str]]:
    counts = {name: len(column) if isinstance(column, Sequence | np.ndarray) else 0 for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise DataError(f"The columns given hold different numbers of samples (got {listed}). Give as many of each.")
    rows = zip(*columns.values(), strict=True)
    yield from _from_samples((dict(zip(columns, row, strict=True)) for row in rows), signature, text)


def _to_arrays(sample: Mapping[Any, object], signature: Signature, where: str) -> Feed:
    """Arrays by input name; what is None is not given.

    Raises:
        DataError: with everything that is no array.
    """
    found: Feed = {}
    problems = []
    for name, value in without_labels(sample, signature).items():
        try:
            if value is not None:
                found[str(name)] = to_numpy(value)
        except _NO_ARRAY as error:
            problems.append(f"{name} ({type(value).__name__}: {' '.join(str(error).split()) or 'no reason given'})")
    if problems:
        raise DataError(f"No arrays can be made of these (in {where}): {'; '.join(problems)}. {_WANTED}.")
    return found


def to_numpy(value: object) -> Array:
    """An array of what numpy, torch and other packages call one, wherever it is, in a type that numpy has.

    Raises:
        ValueError, TypeError, RuntimeError, OverflowError: it is none.
    """
    tensor: Any = value
    for step in ("detach", "cpu"):  # of torch: numpy takes neither what has gradients nor what is on a device
        tensor = getattr(tensor, step)() if hasattr(tensor, step) else tensor
    if str(getattr(tensor, "dtype", "")) in _NO_NUMPY:
        tensor = tensor.float()
    if hasattr(tensor, "__dlpack__") and not hasattr(tensor, "__array__"):
        return np.from_dlpack(tensor)
    array: Array = np.asarray(tensor)
    if array.dtype == object and not all(isinstance(item, str) for item in array.flat):
        missing = [list(index) for index, item in np.ndenumerate(array) if item is None]
        if missing:
            raise ValueError(f"None at index {missing[0]}, wanted a number")
        plain = np.asarray(array.tolist())  # numbers that were kept as objects
        if plain.dtype == object or plain.shape != array.shape:
            plain = np.stack([to_numpy(item) for item in array])
        return plain
    return array


def _is_array(value: object) -> bool:
    """Whether something is an array of another package, or numpy's; lists may be samples."""
    return not isinstance(value, Mapping) and (hasattr(value, "__array__") or hasattr(value, "__dlpack__"))


def _is_ragged(column: object) -> bool:
    """Whether a column is a list of arrays of different shapes, one for each sample."""
    if not isinstance(column, Sequence) and not (isinstance(column, np.ndarray) and column.dtype == object):
        return False
    try:
        to_numpy(column)
    except _NO_ARRAY:
        return True
    return False


@dataclass
class _Held:
    """An array in memory, read as those of files are."""

    array: Array
    row: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions."""
        return tuple(self.array.shape)

    @property
    def ndim(self) -> int:
        """How many."""
        return self.array.ndim

    def take(self, rows: int) -> Array:
        """The next rows."""
        self.row += rows
        return self.array[self.row - rows : self.row]

    def all(self) -> Array:
        """The whole array."""
        return self.array
