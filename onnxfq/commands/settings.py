"""Options of a run, from a file and to a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from typer.core import TyperOption

from onnxfq.errors import UsageError
from onnxfq.system.terminal import one_line

if TYPE_CHECKING:
    from onnxfq.commands.config import Value
    from onnxfq.reports.report import Report


def read_settings(context: typer.Context, path: Path | None) -> Path | None:
    """Let a file stand in for options that are not on the command line; what it holds is checked as if it were."""
    if path is None:
        return None
    from onnxfq.commands.config import read_config

    options = _options(context)
    names = {name: str(option.name) for name, option in options.items()}
    try:
        found = read_config(path, names, [name for name, option in options.items() if option.multiple])
    except UsageError as error:
        raise typer.BadParameter(one_line(str(error))) from error
    context.default_map = {names[name]: value for name, value in found.items()}
    return path


def save_settings(context: typer.Context, path: Path, result: Report) -> None:
    """Write the options of a run to a file; what was left to this machine is written as it was decided."""
    from onnxfq.commands.config import write_config

    decided = {"provider": result.provider, "symmetric": result.settings["symmetric"]}
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
