"""The tables of speeds that there are: those that come with the package, and what was measured on this machine."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile

from onnxfq.errors import DataError, OutputError
from onnxfq.machines import AUTO, Machine
from onnxfq.rules.speed_table import TABLE_VERSION, SpeedTable
from onnxfq.session import runtime_version
from onnxfq.system.processor import instructions, processor_name
from onnxfq.system.user_cache import cache_roots, can_be_made, is_own, own_folder

_TABLES = Path(__file__).with_name("speeds")
_REMEASURE = "`onnxfq doctor` with `measure=True` makes a new one."


def speeds_of(machine: Machine) -> SpeedTable | None:
    """What is known of the speeds on a machine, on this one rather what was measured on it; None where nothing is."""
    if machine.name == AUTO:
        found, _ = read_measured()
        if found is not None:
            return found
    return packaged().get(machine.instructions)


@cache
def packaged() -> dict[str, SpeedTable]:
    """The tables that come with the package, by instruction set."""
    tables = [SpeedTable.load(path) for path in sorted(_TABLES.glob("*.json"))]
    return {table.instructions: table for table in tables}


def read_measured() -> tuple[SpeedTable | None, str]:
    """What was measured on this machine with this ONNX Runtime; and why it cannot be used, if so."""
    for root in cache_roots():
        path = root / _name()
        try:
            if not path.is_file() or not is_own(root):
                if can_be_made(root):  # then what was measured would be there
                    break
                continue
            table = SpeedTable.load(path)
        except (DataError, OSError) as error:
            return None, f"The measurement in '{path}' cannot be used: {error} {_REMEASURE}"
        if (table.processor, table.instructions, table.runtime) == _here():
            return table, ""
        return None, f"The measurement in '{path}' is of another machine or version. {_REMEASURE}"
    return None, ""


def keep_measured(table: SpeedTable) -> Path:
    """Keep what was measured on this machine for later runs, whole or not at all; returns where.

    Raises:
        OutputError: there is no folder that can be written.
    """
    roots = list(cache_roots())
    for root in roots:
        with suppress(OSError):
            if own_folder(root):
                with NamedTemporaryFile("w", dir=root, suffix=".tmp", delete=False, encoding="utf-8") as file:
                    file.write(json.dumps(table.to_json()))
                return Path(file.name).replace(root / _name())
    places = " or ".join(f"'{root}'" for root in roots)
    raise OutputError(f"The measurement cannot be kept: {places} cannot be written. Let XDG_CACHE_HOME name a folder.")


def _here() -> tuple[str, str, str]:
    return processor_name(), instructions(), runtime_version()


def _name() -> str:
    told = "\0".join((*_here(), str(TABLE_VERSION)))
    return f"speeds-{hashlib.sha256(told.encode()).hexdigest()[:16]}.json"
