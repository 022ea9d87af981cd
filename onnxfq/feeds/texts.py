"""Samples given as text: one, several that are encoded apart, or two that are encoded together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from onnxfq.errors import DataError
from onnxfq.feeds.feed import Feed
from onnxfq.feeds.text import Text
from onnxfq.signature import Signature, TensorSpec

TEXT, PAIR = "text", "text_pair"
_FORMS = f'{{"{TEXT}": ["one", "other"]}} are encoded apart, {{"{TEXT}": "one", "{PAIR}": "other"}} together'


def find_texts(sample: Mapping[Any, object], signature: Signature, where: str) -> list[str] | None:
    """The texts of a sample; None where it has none, or what is called so is the model's own input.

    Raises:
        DataError: what stands there is neither.
    """
    if TEXT not in sample:
        return None
    spec, found = signature.feedable.get(TEXT), as_texts(sample[TEXT])
    if found is None and spec is None:
        raise DataError(
            f'"{TEXT}" must be a string or a list of strings (in {where}; got {_kind(sample[TEXT])}). Give ids under '
            "the name of the model's input."
        )
    return None if _takes_strings(spec) else found


def as_texts(value: object) -> list[str] | None:
    """A text, or a list of some, as a list; an empty list is an empty text; None for anything else."""
    several = value if isinstance(value, list | tuple) else [value]
    texts = [one for one in several if isinstance(one, str)]
    return (texts or [""]) if len(texts) == len(several) else None


def encode_texts(
    texts: list[str], sample: Mapping[Any, object], signature: Signature, text: Text, where: str
) -> Iterator[tuple[Feed, str]]:
    """The feed of each text with the words that say where it stands; blank ones are passed over and counted.

    Args:
        texts: of the sample.
        sample: what else there is of it; a second text under "text_pair" is encoded together with the first.
        signature: the model's inputs.
        text: encodes them.
        where: the sample stands.

    Raises:
        DataError: the second text is none, or stands beside a list of first ones.
    """
    first, second = sample.get(TEXT), None if PAIR in signature.feedable else sample.get(PAIR)
    if second is not None and not (isinstance(first, str) and isinstance(second, str)):
        got = f'"{TEXT}": {_kind(first)}, "{PAIR}": {_kind(second)}'
        raise DataError(f'"{PAIR}" is one string beside one string (in {where}; got {got}). {_FORMS}.')
    for number, one in enumerate(texts, start=1):
        pair = second if isinstance(second, str) and second.strip() and one.strip() else None
        feed = text.encode_pair(one, pair) if pair else text.encode(one)
        if feed is None:
            text.tally.empty += 1
        else:
            yield feed, where if len(texts) == 1 else f"text {number} in {where}"


def told_forms(sample: Mapping[Any, object], signature: Signature) -> str:
    """How texts are given, where a sample has some under names of which the model takes none; else ""."""
    unknown = not any(name in signature.feedable for name in sample)
    return f" Texts: {_FORMS}." if unknown and any(map(as_texts, sample.values())) else ""


def _takes_strings(spec: TensorSpec | None) -> bool:
    return spec is not None and spec.dtype == "string"


def _kind(value: object) -> str:
    if not isinstance(value, list | tuple):
        return type(value).__name__
    kinds = sorted({type(one).__name__ for one in value})
    return f"a list of {' and '.join(kinds)}" if kinds else "an empty list"
