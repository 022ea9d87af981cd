"""Settings in messages as people type them: the library writes them as Python spells them, between backticks.

`` `samples` `` becomes --samples, `` `calib=FILE` `` --calib FILE, `` `validate=False` `` --no-validate. The rest of a
message stays as it is, and so does what is not an option of any command.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import get_type_hints

from typer.models import OptionInfo

_SETTING = re.compile(r'`([a-z][a-z_]*)(?:=("[^"`]*"|[^"`]+))?`')
_COMMANDS: list[Callable[..., None]] = []


def declare_options(command: Callable[..., None]) -> None:
    """Make the options of a command known, which are its parameters."""
    _COMMANDS.append(command)
    _declared.cache_clear()


def with_option_names(text: str) -> str:
    """A message with options in place of settings.

    Args:
        text: settings stand between backticks, alone or with a value: `` `samples` ``, `` `calib=FILE` ``,
            `` `calib="self"` ``, `` `validate=False` ``.
    """
    return _SETTING.sub(partial(_option, _declared()), text)


def _option(options: dict[str, tuple[str, str]], match: re.Match[str]) -> str:
    name, value = match.groups()
    yes, no = options.get(name, ("", ""))
    if value == "False":
        return no or options.get(f"no_{name}", (match[0], ""))[0]
    if value in (None, "True"):
        return yes or match[0]
    typed = value.strip('"')
    return f"{yes} {typed}" if yes else match[0]


@cache
def _declared() -> dict[str, tuple[str, str]]:
    """By the name of the setting: what to type for it, and what switches it off."""
    return {name: option for command in _COMMANDS for name, option in _options_of(command)}


def _options_of(command: Callable[..., None]) -> Iterator[tuple[str, tuple[str, str]]]:
    hints = get_type_hints(command, include_extras=True)
    for name in inspect.signature(command).parameters:
        for info in getattr(hints[name], "__metadata__", ()):
            if isinstance(info, OptionInfo):
                # In an annotation, the first spelling stands where a default would.
                spellings = [one for one in (info.default, *(info.param_decls or ())) if isinstance(one, str)]
                yes, _, no = next(iter(spellings), f"--{name.replace('_', '-')}").partition("/")
                yield name, (yes, no)
