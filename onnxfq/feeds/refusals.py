"""What ONNX Runtime says where it refuses inputs: at which node, and which sizes it got and wanted."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Sizes = tuple[int, int]  # got, wanted

_MOST_DIGITS = 12
_NODE = re.compile(r"while running (\w+) node\. Name:'([^']*)'")
_SHAPE = r"\{([-\d, ]*)\}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a model does not run on some inputs.

    Attributes:
        place: the operator and the node that refused; two refusals at one place have one cause.
        sizes: what was got and what was wanted; where the message does not say which is which, both ways.
    """

    place: str
    sizes: tuple[Sizes, ...] = ()


def read_refusal(text: str) -> Refusal:
    """Understand a message of ONNX Runtime, as far as it can be.

    Args:
        text: on one line.
    """
    node = _NODE.search(text)
    place = f"{node[1]} {node[2]}" if node else re.sub(r"\d+", "", text)[:200]
    found = dict.fromkeys(pair for pair in _read_sizes(text) if pair[0] != pair[1] and min(pair) > 0)
    return Refusal(place, tuple(found))


def _read_sizes(text: str) -> Iterator[Sizes]:
    for pattern, read in _READERS:
        for match in pattern.finditer(text):
            if all(len(number) <= _MOST_DIGITS for number in re.findall(r"\d+", match[0])):
                yield from read(*match.groups())


def _ordered(got: str, wanted: str) -> Iterator[Sizes]:
    yield int(got), int(wanted)


def _reversed(wanted: str, got: str) -> Iterator[Sizes]:
    yield int(got), int(wanted)


def _either(one: str, other: str) -> Iterator[Sizes]:
    yield int(one), int(other)
    yield int(other), int(one)


def _kernel(got: str, channels: str, groups: str) -> Iterator[Sizes]:
    yield int(got), int(channels) * int(groups)


def _one(got: str) -> Iterator[Sizes]:
    yield int(got), 1


def _row(limit: str) -> Iterator[Sizes]:
    yield int(limit) + 2, int(limit) + 1  # one more than there are


def _reshaped(given: str, wanted: str) -> Iterator[Sizes]:
    """The numbers of elements, then sizes that stand at the same place, then those of what follows the batch."""
    old, new = _numbers(given), _numbers(wanted)
    known = [size for size in new if size > 0]
    if -1 not in new and 0 not in new:
        yield math.prod(old), math.prod(new)
    if len(old) == len(new):
        yield from ((a, b) for a, b in zip(old, new, strict=True) if b > 0)
    yield math.prod(old[1:]), math.prod(known[1:] if new and new[0] == 1 else known)


def _differing(wanted: str, got: str) -> Iterator[Sizes]:
    old, new = _numbers(got), _numbers(wanted)
    for a, b in zip(reversed(old), reversed(new), strict=False):
        yield from _either(str(a), str(b))


def _product(rows: str, columns: str, got: str, kept: str) -> Iterator[Sizes]:
    yield int(got), int(rows if columns == kept else columns)


def _numbers(shape: str) -> list[int]:
    return [int(number) for number in re.findall(r"-?\d+", shape)]


# What is said, and how to read it. Messages of ONNX Runtime 1.17 to 1.31.
_READERS: tuple[tuple[re.Pattern[str], Callable[..., Iterator[Sizes]]], ...] = tuple(
    (re.compile(pattern), read)
    for pattern, read in (
        (r"[Gg]ot:? (\d+),? [Ee]xpected:? (\d+)", _ordered),
        (r"[Ee]xpected:? (\d+),? [Gg]ot:? (\d+)", _reversed),
        (r" C: (\d+) kernel channels: (\d+) group: (\d+)", _kernel),
        (r"filter_number: (\d+) num_input_channels: (\d+)", _reversed),
        (r"input channel count (\d+) vs\. (\d+)", _reversed),
        (r"must be 1 instead of (\d+)", _one),
        (r"by a dimension other than 1\. (\d+) by (\d+)", _either),
        (r"mismatched dimensions of (\d+) and (\d+)", _either),
        (rf"Input shape:{_SHAPE}, requested shape:{_SHAPE}", _reshaped),
        (r"W: \{(\d+),(\d+)\} K: (\d+) N: ?(\d+)", _product),
        (rf"X\.shape={_SHAPE} scale\.shape={_SHAPE}", _differing),
        (rf"must have shape {_SHAPE}\. Actual: ?{_SHAPE}", _differing),
        (r"within the inclusive range \[-\d+, ?(\d+)\]", _row),
    )
)
