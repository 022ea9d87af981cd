"""Samples from lines of JSON: text, ids of tokens, or the model's inputs by name."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from onnxfq.arrays import Array
from onnxfq.errors import DataError
from onnxfq.feeds.arrays_by_name import without_labels
from onnxfq.feeds.check import check_names, noun
from onnxfq.feeds.feed import Feed
from onnxfq.feeds.generate import element_type
from onnxfq.feeds.names import is_integer
from onnxfq.feeds.text import Text
from onnxfq.feeds.texts import TEXT, as_texts, encode_texts, find_texts, told_forms
from onnxfq.signature import Signature, TensorSpec

_NUMBERS = (int, float, bool)
# Types that the elements of an array may have together.
_PLAIN = [{str}, *(set(kinds) for n in range(4) for kinds in itertools.combinations(_NUMBERS, n))]
_MOST_DIMENSIONS = 32
_MOST_TEXT = 1 << 24  # characters of an array: numpy makes all of its texts as long as the longest


def read_jsonl(lines: Iterable[str], name: str, signature: Signature, text: Text) -> Iterator[tuple[Feed, str]]:
    """Each sample with the words that say where it stands; lines that are blank, or whose text is, are passed over.

    Args:
        lines: of the file. A list of texts, bare or under "text", is as many samples.
        name: of the file.
        signature: the model's inputs.
        text: encodes texts and cuts `input_ids` that stand alone; beside other inputs they stay whole.

    Raises:
        DataError: a line is no JSON object, or what it holds does not become the model's inputs.
    """
    for value, where in _parse_values(lines, name):
        sample = {TEXT: value} if isinstance(value, list) and as_texts(value) else _object(value, where)
        yield from _parse_sample(sample, signature, text, where)


def parse_lines(lines: Iterable[str], name: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The JSON object of each line that is not blank, with the words that say where it stands.

    Args:
        lines: of the file.
        name: of the file.

    Raises:
        DataError: a line holds no object.
    """
    for value, where in _parse_values(lines, name):
        yield _object(value, where), where


def _parse_values(lines: Iterable[str], name: str) -> Iterator[tuple[object, str]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"line {number} of {name}"
            try:
                yield json.loads(line), where
            except (ValueError, RecursionError) as error:  # no JSON, numbers of thousands of digits, lists in lists
                raise DataError(f"Expected JSON (in {where}): {error}. Write one JSON object a line.") from error


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"Expected a JSON object (in {where}; got {type(value).__name__}). Write one object a line.")
    return value


def _parse_sample(sample: dict[str, Any], signature: Signature, text: Text, where: str) -> Iterator[tuple[Feed, str]]:
    """A model's inputs, of each text where there are several."""
    specs = signature.feedable
    texts = find_texts(sample, signature, where)
    if texts is not None:
        for encoded, place in encode_texts(texts, sample, signature, text, where):
            others = {name: specs[name] for name in sample if name in specs and name not in {TEXT, *encoded}}
            yield encoded | {name: to_array(sample[name], spec, where) for name, spec in others.items()}, place
        return
    if list(sample) == ["input_ids"]:
        yield text.from_ids(sample["input_ids"], where), where
        return
    check_names(without_labels(sample, signature), signature, where, told_forms(sample, signature))
    yield {name: to_array(sample[name], spec, where) for name, spec in specs.items() if name in sample}, where


def to_array(value: object, spec: TensorSpec, where: str) -> Array:
    """An array from JSON's lists; of what type the input is, and how many axes it has, is not looked at."""
    objects = np.asarray(value, object)
    items = list(objects.flat) if objects.ndim <= _MOST_DIMENSIONS else [None]
    longest = max((len(item) for item in items if isinstance(item, str)), default=0)
    plain = {type(item) for item in items} in _PLAIN and longest * len(items) <= _MOST_TEXT
    array = np.asarray(value) if plain else objects
    if array.dtype == object:  # lists of different lengths, objects, numbers and text, numbers beyond 64 bits
        null = _place_of_null(items, objects.shape)
        wanted = f", {noun(spec)} as whole numbers" if null and is_integer(spec) else ""
        raise DataError(
            f"{spec.name} is not an array (in {where}{null}). Give numbers or text, in lists of equal lengths{wanted}."
        )
    return array.astype(element_type(spec)) if array.size == 0 else array  # [] is of no type


def _place_of_null(items: list[object], shape: tuple[int, ...]) -> str:
    """Where the first null stands, for messages; "" where there is none, or lists are too deep to tell."""
    if None not in items or len(shape) > _MOST_DIMENSIONS:
        return ""
    at = [int(axis) for axis in np.unravel_index(items.index(None), shape)]
    return f"; got null at index {at}" if at else "; got null"
