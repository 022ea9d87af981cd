"""What is here, and which formats are fast with it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence

from onnxfq.machines import AUTO, find_machine
from onnxfq.rules.known_speeds import packaged, read_measured, speeds_of
from onnxfq.rules.matmul_nbits_kernels import COLUMNS, is_measured, rows
from onnxfq.rules.speed_table import SpeedTable
from onnxfq.runtime_distributions import conflict, distributions
from onnxfq.scheme import BLOCK_SIZES
from onnxfq.session import available_providers, runtime_version
from onnxfq.system.processor import instructions
from onnxfq.version import VERSION

__all__ = ["COLUMNS", "brief", "environment", "kernel_rows", "speed_rows", "speeds"]

_MERGED = ("zero points", "activations", "accuracy_level")
_SHORT = {" ".join(map(str, BLOCK_SIZES)): "all", "packed, default": "either"}


def environment() -> Iterator[tuple[str, str]]:
    """(what, value) of everything that decides about speed here."""
    yield "onnxfq", VERSION
    yield "Python", platform.python_version()
    yield "ONNX Runtime", runtime_version()
    yield "installed as", ", ".join(f"{name} {version}" for name, version in distributions().items()) or "unknown"
    if wrong := conflict():
        yield "wrong", wrong
    yield "providers", ", ".join(available_providers())
    yield "machine", f"{platform.machine()}, {os.cpu_count()} processors, {instructions()}"
    measured, wrong = read_measured()
    if measured is not None:
        yield "speeds", measured.source
    elif is_measured("cpu"):
        yield "speeds", f"by a table for {instructions()}; `measure=True` measures this machine"
    else:
        known = ", ".join(packaged())
        yield (
            "speeds",
            f"measured on the CPU with {known} only: which formats are fast on this one is unknown until "
            "`measure=True` has measured them",
        )
    if wrong:
        yield "measurement", wrong


def kernel_rows() -> list[tuple[str, ...]]:
    """The kernel table of the providers that are here, as far as it holds here."""
    return [row for provider in available_providers() if is_measured(provider) for row in rows(provider)]


def speeds() -> SpeedTable | None:
    """How fast formats are on this machine's processor, by the best table that there is; None where there is none."""
    return speeds_of(find_machine(AUTO, "cpu"))


def speed_rows(table: SpeedTable) -> list[tuple[str, ...]]:
    """A table of speeds for reading: a format, and for each count of rows the figure of each width."""
    return [
        (str(of), *("/".join(f"{of_width[i]:.2g}" for of_width in figures) for i in range(len(table.rows))))
        for of, figures in table.formats.items()
    ]


def brief(table: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """A kernel table for reading: rows that differ in what makes no difference become one."""
    merged = list(table)
    for column in map(COLUMNS.index, _MERGED):
        merged = _merge(merged, column)
    return [tuple(_SHORT.get(text, text) for text in row) for row in merged]


def _merge(table: Sequence[tuple[str, ...]], column: int) -> list[tuple[str, ...]]:
    """Rows that differ in one column only become one row, with all its values in that column."""
    groups: dict[tuple[str, ...], dict[str, None]] = {}
    for row in table:
        groups.setdefault((*row[:column], *row[column + 1 :]), {})[row[column]] = None
    return [(*rest[:column], ", ".join(values), *rest[column:]) for rest, values in groups.items()]
