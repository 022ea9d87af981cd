"""What is expected of a run and of its output before anything is measured, as a part of reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExpectedSpeed:
    """How fast the quantized products are together on a kind of machine, by a table.

    Attributes:
        machine: in words; the one that the file was made for comes first.
        instructions: of the table.
        rows: of activations at once.
        times_faster: than in floating point.
        source: of the table's figures.
    """

    machine: str
    instructions: str
    rows: tuple[int, ...]
    times_faster: float
    source: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will take, from the sizes alone: orders of magnitude."""

    seconds: float
    memory_bytes: int
