"""Whether settings are of types that something can be made of: from the hints that they are declared with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from onnxfq.errors import UsageError

_WORDS: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    Sequence[int]: "a list of whole numbers",
    str: "text",
    Path: "a path",
    NoneType: "None",
}
_LONGEST_VALUE = 100  # characters


def check_types(given: Mapping[str, object], hints: Mapping[str, Any]) -> None:
    """Refuse values of other types than the hints say. Hints of other kinds than plain ones are left to their readers.

    Args:
        given: settings by name.
        hints: the type of each.

    Raises:
        UsageError: naming the setting, what was given, and what it takes.
    """
    for name, value in given.items():
        kinds = _plain_kinds(hints[name])
        if kinds and not any(_fits(value, kind) for kind in kinds):
            words = [_WORDS[kind] for kind in _WORDS if kind in kinds and not (kind is str and Path in kinds)]
            got = repr(value)
            got = got if len(got) <= _LONGEST_VALUE else f"{type(value).__name__} {got[:_LONGEST_VALUE]}…"
            raise UsageError(f"`{name}` must be {' or '.join(words)} (got {got}).")


def nearest_names(unknown: Iterable[str], known: Iterable[str]) -> str:
    """What was probably meant by names that do not exist, as a sentence with a space before it, or nothing."""
    names = list(known)
    meant = [match for name in unknown for match in get_close_matches(name, names, n=1)]
    return f" Did you mean {', '.join(dict.fromkeys(meant))}?" if meant else ""


def _plain_kinds(hint: object) -> tuple[Any, ...]:
    """The kinds that a hint allows; none where it is more than a union of plain ones."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return kinds if all(kind in _WORDS for kind in kinds) else ()


def _fits(value: object, kind: object) -> bool:
    if kind == Sequence[int]:
        listed = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        return listed and all(_fits(one, int) for one in value)  # type: ignore[attr-defined]
    if isinstance(value, bool):
        return kind is bool
    numbers: dict[object, type] = {int: Integral, float: Real}  # numpy's too
    return isinstance(value, numbers.get(kind, kind))  # type: ignore[arg-type]
