"""Settings of a command in a file: read to stand in for its options, written to make a run again.

A file holds options by their names, as TOML or as JSON: `block-size = 128`. What is typed on the command line beats it.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperOption

from onnxfq.commands.option_names import with_option_names
from onnxfq.errors import OutputError, UsageError
from onnxfq.system.durable import write_durably
from onnxfq.system.terminal import one_line

if TYPE_CHECKING:
    from onnxfq.reports.report import Report

KINDS = (".toml", ".json")
_OF_THE_SCHEME = ("bits", "block_size", "symmetric", "activations")
_BESIDE_A_MIX = ("symmetric", "activations")  # bits and block sizes were chosen weight by weight
Value = bool | int | float | str | list[str]


def read_settings(context: typer.Context, path: Path | None) -> Path | None:
    """Let a file stand in for options that are not on the command line; what it holds is checked as if it were."""
    if path is None:
        return None
    options = _options(context)
    names = {name: str(option.name) for name, option in options.items()}
    try:
        found = read_config(path, names, [name for name, option in options.items() if option.multiple])
    except UsageError as error:
        raise typer.BadParameter(one_line(with_option_names(str(error)))) from error
    context.default_map = {names[name]: value for name, value in found.items()}
    return path


def save_settings(context: typer.Context, path: Path, result: Report) -> None:
    """Write the options of a run to a file; what was left to this machine is written as it was decided."""
    chosen = _OF_THE_SCHEME if result.settings.get("target_size") is None else _BESIDE_A_MIX
    scheme = {name.replace("_", "-"): result.settings[name] for name in chosen}
    decided = {"provider": result.provider, **scheme}
    given = {name: context.params[str(option.name)] for name, option in _options(context).items()}
    settings = {name: _plain(value) for name, value in {**given, **decided}.items() if value not in (None, (), [])}
    write_config(path, settings, f"The model is complete: '{result.output}'. ")


def _options(context: typer.Context) -> dict[str, TyperOption]:
    """A command's options by their long names, but for those about such files."""
    found = {
        max(option.opts, key=len).lstrip("-"): option
        for option in context.command.params
        if isinstance(option, TyperOption)
    }
    return {name: option for name, option in found.items() if name not in ("help", "config", "save-config")}


def _plain(value: object) -> Value:
    return value if isinstance(value, bool | int | float | list) else str(value)


def read_config(path: Path, names: Collection[str], lists: Collection[str] = ()) -> dict[str, str | list[str]]:
    """Settings as they would be typed, by the names of their options.

    Args:
        path: a file that ends in .toml or .json.
        names: of the options that there are, without dashes in front.
        lists: of those that may be given several times.

    Raises:
        UsageError: the file cannot be read, or holds what is not an option; all offenders are named.
    """
    found = _read(path)
    unknown = [name for name in found if name not in names]
    if unknown:
        raise UsageError(
            f"'{path}' holds unknown settings: {', '.join(unknown)}. There are: {', '.join(sorted(names))}."
        )
    wrong = [name for name, value in found.items() if not _fits(value, several=name in lists)]
    if wrong:
        raise UsageError(
            f"'{path}' holds settings that are neither text, number nor truth value: {', '.join(wrong)}. "
            f"Lists are for {', '.join(sorted(lists)) or 'no setting'} only."
        )
    return {name: _typed(value, several=name in lists) for name, value in found.items()}


def _read(path: Path) -> dict[str, Any]:
    _check_kind(path)
    try:
        text = path.read_text(encoding="utf-8")
        found = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise UsageError(f"Cannot read the settings '{path}' ({error.strerror or error}). Name a file.") from error
    except ValueError as error:
        raise UsageError(f"'{path}' is not valid {path.suffix[1:].upper()}: {error}. Repair it.") from error
    if not isinstance(found, dict):
        raise UsageError(f"'{path}' holds no settings by name (got a JSON {type(found).__name__}).")
    return found


def _fits(value: object, *, several: bool) -> bool:
    if isinstance(value, list):
        return several and all(isinstance(one, str) for one in value)
    return isinstance(value, str | int | float)


def _typed(value: Any, *, several: bool) -> str | list[str]:  # noqa: ANN401 - what a file holds
    """As on the command line, where everything is text and checked as such."""
    if several:
        return value if isinstance(value, list) else [str(value)]
    return str(value)


def write_config(path: Path, settings: Mapping[str, Value], done: str = "") -> None:
    """Write settings, whole or not at all.

    Args:
        path: a file that ends in .toml or .json.
        settings: by the names of their options.
        done: what is complete all the same if it cannot be written.

    Raises:
        OutputError: the file cannot be written.
    """
    text = _toml(settings) if path.suffix == ".toml" else json.dumps(settings, indent=1) + "\n"
    try:
        write_durably(path, text.encode(), path.with_name(f".{path.name}.partial"))
    except (OSError, UnicodeEncodeError) as error:
        raise OutputError(
            f"Cannot write the settings '{path}' ({getattr(error, 'strerror', None) or error}). {done}Choose another "
            "place for them."
        ) from error


def check_config_path(path: Path, *taken: Path | None) -> None:
    """Refuse settings that could not be written, or would change the source or the output, before any work.

    Args:
        path: the file.
        taken: source and output.

    Raises:
        UsageError: its name ends in nothing known, or its place cannot be written.
    """
    _check_kind(path)
    if not path.parent.is_dir() or path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(
            f"Cannot write the settings '{path}': it must be a file in a folder that can be written. Choose another."
        )
    inside = [folder for folder in taken if folder is not None and path.resolve().is_relative_to(folder.resolve())]
    if inside:
        raise UsageError(f"The settings '{path}' would change '{inside[0]}'. Choose another place for them.")


def _check_kind(path: Path) -> None:
    if path.suffix not in KINDS:
        raise UsageError(f"Unknown kind of settings (got '{path}'). Give a name that ends in {' or '.join(KINDS)}.")


def _toml(settings: Mapping[str, Value]) -> str:
    return "".join(f"{name} = {_toml_value(value)}\n" for name, value in settings.items())


def _toml_value(value: Value) -> str:
    """TOML writes text, lists and truth values as JSON does, but for the DEL character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
