"""JSON into dataclasses, by their type hints. The file may be anyone's: what does not fit is refused by its place."""

from __future__ import annotations

import json
import math
import types
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from onnxfq.errors import DataError
from onnxfq.system.terminal import shortened

MAX_FILE_BYTES = 256 * 2**20
MAX_INT = 2**63 - 1  # beyond, arithmetic with floats may fail

T = TypeVar("T")


def read_object(path: Path) -> dict[str, Any]:
    """The one JSON object in a file.

    Raises:
        DataError: the file cannot be read, is too large, or holds something else.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"'{path}' is too large for a report (more than {MAX_FILE_BYTES >> 20} MiB).")
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except OSError as error:
        raise DataError(f"Cannot read the report '{path}' ({error.strerror or error}).") from error
    except RecursionError as error:
        raise DataError(f"'{path}' is no report of onnxfq: it is nested too deeply.") from error
    except ValueError as error:  # no UTF-8, no JSON, a number of thousands of digits, a path with a null character
        raise DataError(f"'{path}' is no report of onnxfq, which is a JSON file ({error}).") from error
    if not isinstance(value, dict):
        raise DataError(f"'{path}' is no report of onnxfq (got {_kind(value)}, wanted an object).")
    return value


def build(kind: type[T], value: object, where: str) -> T:
    """A dataclass from a JSON object; members that it does not know are left out, as later versions may add some.

    Args:
        kind: the dataclass.
        value: what JSON gave.
        where: names the value, for messages.

    Raises:
        DataError: a member is missing or of another type.
    """
    if not isinstance(value, dict):
        _refuse(value, "an object", where)
    hints = get_type_hints(kind)
    given: dict[str, Any] = {}
    for field in fields(kind):  # type: ignore[arg-type]
        place = f"{where}.{field.name}"
        if field.name in value:
            given[field.name] = _convert(hints[field.name], value[field.name], place)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise DataError(f"Not a whole report: {place} is missing. Write it again with onnxfq.")
    return kind(**given)


def _convert(hint: object, value: object, where: str) -> object:
    """The value as its type hint has it."""
    if hint is Any:
        return value
    if is_dataclass(hint) and isinstance(hint, type):
        return build(hint, value, where)
    origin, inner = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, types.UnionType):
        return _one_of(inner, value, where)
    if origin is tuple:
        return _sequence(inner, value, where)
    if origin is Literal:
        return value if value in inner else _refuse(value, f"one of {', '.join(map(str, inner))}", where)
    if origin is dict:
        return value if isinstance(value, dict) else _refuse(value, "an object", where)
    return _plain(origin, value, where)


def _plain(kind: object, value: object, where: str) -> object:
    """Text, a number, a truth value or null; true is no number, whole numbers are counts, and others are finite."""
    if type(value) is not kind and not (kind is float and type(value) is int):
        _refuse(value, _WORDS.get(kind, str(kind)), where)
    if kind is int and isinstance(value, int) and not 0 <= value <= MAX_INT:
        _refuse(value, "0 or more, within 64 bits", where)
    if isinstance(value, float) and not math.isfinite(value):
        _refuse(value, "a finite number", where)
    if kind is float and isinstance(value, int):
        return float(value) if abs(value) <= MAX_INT else _refuse(value, "a number within 64 bits", where)
    return value


def _one_of(kinds: tuple[object, ...], value: object, where: str) -> object:
    if value is None and type(None) in kinds:
        return None
    errors = []
    for kind in kinds:
        if kind is not type(None):
            try:
                return _convert(kind, value, where)
            except DataError as error:
                errors.append(error)
    raise errors[0]


def _sequence(kinds: tuple[object, ...], value: object, where: str) -> tuple[object, ...]:
    """Of any length for `tuple[X, ...]`, else of one member each."""
    if not isinstance(value, list | tuple):  # the latter: before it went through JSON
        _refuse(value, "a list", where)
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    if len(kinds) != len(value):
        _refuse(value, f"{len(kinds)} members", where)
    return tuple(
        _convert(kind, member, f"{where}[{i}]") for i, (kind, member) in enumerate(zip(kinds, value, strict=True))
    )


def _refuse(value: object, wanted: str, where: str) -> NoReturn:
    raise DataError(f"Not a report of onnxfq: {where} must be {wanted} (got {_kind(value)}).")


def _kind(value: object) -> str:
    """What a JSON value is, in a few words."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        return f"the text {shortened(value, 40)!r}"
    return "a very large number" if isinstance(value, int) and abs(value) > MAX_INT else json.dumps(value)


_WORDS: dict[object, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    types.NoneType: "null",
}


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number in JSON")
