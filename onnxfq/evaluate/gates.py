"""Limits on accuracy and speed, and whether they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxfq.evaluate.accuracy import OutputAccuracy
from onnxfq.evaluate.latency import Latency


@dataclass(frozen=True, slots=True)
class Gate:
    """One limit.

    Attributes:
        name: the option that set it, such as "max-error".
        limit: what the user allows.
        measured: what was measured; None where there is no such figure, and then the gate fails.
        passed: whether it holds.
        relative: whether limit and measured are fractions of the baseline's figure.
    """

    name: str
    limit: float
    measured: float | None
    passed: bool
    relative: bool = False

    def __str__(self) -> str:
        """For people: `max-error: 0.02, limit 0.01: failed`."""
        factor, unit = (100, " %") if self.relative else (1, "")
        measured = "no figure" if self.measured is None else f"{factor * self.measured:.4g}{unit}"
        limit = f"{factor * self.limit:g}{unit}"
        return f"{self.name}: {measured}, limit {limit}: {'passed' if self.passed else 'failed'}"


def check_gates(
    *,
    max_error: float | None,
    min_speedup: float | None,
    outputs: Sequence[OutputAccuracy],
    latencies: Sequence[Latency],
) -> list[Gate]:
    """Compare the figures with the limits that were set.

    Args:
        max_error: the largest relative MSE allowed over the floating-point outputs; None sets no limit.
        min_speedup: the smallest speed-up allowed over all cases measured; None sets no limit.
        outputs: accuracy of each output.
        latencies: each case measured.
    """
    gates = []
    if max_error is not None:
        error = _largest_error(outputs)
        gates.append(Gate("max-error", max_error, error, error is not None and error <= max_error))
    if min_speedup is not None:
        speedup = min((latency.speedup for latency in latencies), default=None)
        gates.append(Gate("min-speedup", min_speedup, speedup, speedup is not None and speedup >= min_speedup))
    return gates


def _largest_error(outputs: Sequence[OutputAccuracy]) -> float | None:
    """None as soon as one output has no finite error: that is worse than any number."""
    errors = [output.relative_mse for output in outputs if output.is_float and not output.is_empty]
    known = [error for error in errors if error is not None]
    return max(known) if known and len(known) == len(errors) else None
