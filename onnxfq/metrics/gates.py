"""A limit on accuracy or speed, and whether it holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from onnxfq.errors import GateError


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

    @property
    def measured_text(self) -> str:
        """What was measured, for people: `0.02`, `2.6 %`, `without a figure (…)`."""
        if self.measured is None:
            return f"without a figure ({self.note})" if self.note else "without a figure"
        return f"{100 * self.measured:.4g} %" if self.relative else f"{self.measured:.4g}"

    @property
    def limit_text(self) -> str:
        """The limit, for people: `0.01`, `1 %`."""
        return f"{100 * self.limit:g} %" if self.relative else f"{self.limit:g}"

    def __str__(self) -> str:
        """For people: `max-error: 0.02, limit 0.01: failed`."""
        return f"{self.name}: {self.measured_text}, limit {self.limit_text}: {'passed' if self.passed else 'failed'}"


def require_all(what: object, gates: Iterable[Gate]) -> None:
    """Let only pass what holds all its gates.

    Args:
        what: has them, for the message.
        gates: all of them.

    Raises:
        GateError: some do not hold; they are named.
    """
    failed = [str(gate) for gate in gates if not gate.passed]
    if failed:
        raise GateError(f"{what} fails {len(failed)} gates: {'; '.join(failed)}.")
