"""A limit on accuracy or speed, and whether it holds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gate:
    """One limit.

    Attributes:
        name: the option that set it, such as "max-error".
        limit: what the user allows.
        measured: what was measured; None where there is no such figure, and then the gate fails.
        passed: whether it holds.
        relative: whether limit and measured are fractions of the baseline's figure.
        note: why there is no figure; "" where there is one.
    """

    name: str
    limit: float
    measured: float | None
    passed: bool
    relative: bool = False
    note: str = ""

    def __str__(self) -> str:
        """For people: `max-error: 0.02, limit 0.01: failed`."""
        factor, unit = (100, " %") if self.relative else (1, "")
        why = f" ({self.note})" if self.note else ""
        measured = f"no figure{why}" if self.measured is None else f"{factor * self.measured:.4g}{unit}"
        limit = f"{factor * self.limit:g}{unit}"
        return f"{self.name}: {measured}, limit {limit}: {'passed' if self.passed else 'failed'}"
