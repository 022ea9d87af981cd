"""An algorithm's options as text: `damping=0.02,act_order=false` to a solver's fields and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from types import NoneType
from typing import Any, get_args, get_type_hints

from onnxfq.errors import UsageError

_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", NoneType: "none"}


def parse_options(name: str, kind: type, text: str) -> dict[str, Any]:
    """The fields of a solver that an option text sets.

    Args:
        name: the algorithm, for messages.
        kind: the solver's class; it has options where it is a dataclass with fields.
        text: `option=value,…`.

    Raises:
        UsageError: with everything wrong: no options at all, no such option, one given twice, a value of another type.
    """
    known = _fields(kind)
    all_of_them = f"Its options and their defaults: {_listed(_defaults(known))}."
    if not known:
        raise UsageError(f"The algorithm {name} has no options (got {text!r}). Use `algorithm={name}`.")
    if not text.strip():
        raise UsageError(
            f"Options are missing after the colon (got algorithm='{name}:', wanted {name}:OPTION=VALUE,…). Leave the "
            f"colon out, or give some. {all_of_them}"
        )
    found: dict[str, Any] = {}
    problems: list[str] = []
    for item in text.split(","):
        option, _, value = (part.strip() for part in item.partition("="))
        try:
            if option in found:
                raise ValueError(f"{option} is given twice")
            found[option] = _parse(option, value, known)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise UsageError(f"The options of {name} do not fit (got {text!r}): {'; '.join(problems)}. {all_of_them}")
    return found


def solver_options(solver: object) -> dict[str, Any]:
    """A solver's options with their values, in the order of its fields; empty where it has none."""
    return {name: getattr(solver, name) for name in _fields(type(solver))}


def options_text(solver: object) -> str:
    """The options that are not at their defaults, as `parse_options` reads them."""
    defaults = _defaults(_fields(type(solver)))
    return _listed({name: value for name, value in solver_options(solver).items() if value != defaults[name]}, ",")


def _fields(kind: type) -> dict[str, tuple[Field[Any], tuple[type, ...]]]:
    """Each option with the types its value may have."""
    if not is_dataclass(kind):
        return {}
    hints = get_type_hints(kind)
    return {f.name: (f, get_args(hints[f.name]) or (hints[f.name],)) for f in fields(kind) if f.init}


def _defaults(known: Mapping[str, tuple[Field[Any], tuple[type, ...]]]) -> dict[str, Any]:
    return {name: "(none)" if field.default is MISSING else field.default for name, (field, _) in known.items()}


def _parse(option: str, value: str, known: Mapping[str, tuple[Field[Any], tuple[type, ...]]]) -> Any:  # noqa: ANN401
    """A value as the first of its option's types that it fits."""
    if not option:
        raise ValueError("an option is missing beside a comma" if not value else f"a name is missing before ={value}")
    if option not in known:
        raise ValueError(f"there is no option {option!r}")
    kinds = known[option][1]
    for kind in kinds:
        try:
            return _converted(value, kind)
        except (KeyError, ValueError):
            continue
    raise ValueError(f"{option} is {value!r}, wanted {' or '.join(_WORDS[kind] for kind in kinds)}")


def _converted(value: str, kind: type) -> Any:  # noqa: ANN401
    if kind is bool:
        return _BOOLEANS[value.lower()]
    if kind is NoneType:
        return {"none": None}[value.lower()]
    number = kind(value)
    if kind is float and not math.isfinite(number):
        raise ValueError
    return number


def _listed(values: Mapping[str, Any], separator: str = ", ") -> str:
    return separator.join(f"{name}={_text(value)}" for name, value in values.items())


def _text(value: object) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
