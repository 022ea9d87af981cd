"""Axes of charts: where a value stands between 0 and 1, and which values are written beside the axis."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

LARGEST = 1e300  # squares and differences of larger values overflow
MANY_TICKS = 6


@dataclass(frozen=True, slots=True)
class Tick:
    """A value beside an axis, and where it stands, from 0 to 1."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Axis:
    """A direction of a chart.

    Attributes:
        low: the value at 0, transformed.
        high: the value at 1, transformed.
        transform: of values: the identity, a logarithm, …
        marks: values to write beside it.
    """

    low: float
    high: float
    transform: Callable[[float], float]
    marks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Where a value stands; what is beyond an end stands at it."""
        at = (self.transform(value) - self.low) / (self.high - self.low)
        return max(0.0, min(1.0, at))

    @property
    def ticks(self) -> list[Tick]:
        """The values beside it."""
        return [Tick(self.place(value), f"{value:g}") for value in self.marks]


def order_axis(count: int) -> Axis:
    """For 1, 2, …, count."""
    step = max(1, math.ceil(_nice(count / MANY_TICKS)))
    marks = [1, *range(step, count + 1, step)] if step > 1 else range(1, count + 1)
    return Axis(0.5, count + 0.5, float, tuple(map(float, marks)))


def linear_axis(values: Iterable[float], *, zero: bool = False, margin: float = 0.0) -> Axis:
    """For values of one magnitude.

    Args:
        values: what must fit.
        zero: show zero too.
        margin: room at both ends, in the values' unit.
    """
    known = [max(-LARGEST, min(LARGEST, v)) for v in values] + ([0.0] if zero else [])
    low, high = min(known, default=0.0) - margin, max(known, default=1.0) + margin
    if not high > low:
        low, high = low - (abs(low) or 1.0), high + (abs(high) or 1.0)
    step = _nice((high - low) / (MANY_TICKS - 1))
    first, last = math.floor(low / step), math.ceil(high / step)
    return Axis(first * step, last * step, float, tuple(i * step for i in range(first, last + 1)))


def log_axis(values: Iterable[float]) -> Axis:
    """For positive values of many magnitudes; zero stands at the lower end, which is then written as 0."""
    known = [v for v in values if v >= 0.0]
    positive = [v for v in known if v > 0.0] or [1.0]
    low, high = _round_number(min(positive), up=False), _round_number(max(positive), up=True)
    if not high > low:
        low, high = max(low / 2, sys.float_info.min), min(high * 2, sys.float_info.max)
    marks = _log_marks(low, high)
    bottom, top = math.log10(low), math.log10(high)
    if len(positive) < len(known) and max(known) > 0.0:  # room for zeros
        bottom -= 0.15 * (top - bottom) or 1.0
        marks = [0.0, *marks]
    return Axis(bottom, top, lambda v: math.log10(v) if v > 0.0 else bottom, tuple(marks))


def signed_log_axis(values: Sequence[float], linear: float) -> Axis:
    """For values of both signs and many magnitudes, zero in it.

    Args:
        values: what must fit.
        linear: magnitudes below this are shown to scale, larger ones by their logarithm.
    """

    def transform(value: float) -> float:
        return math.asinh(value / linear)

    low, high = min([0.0, *values]), max([0.0, *values])
    largest = math.floor(math.log10(max(abs(low), abs(high), linear)))
    smallest = math.ceil(math.log10(linear))
    powers = _thinned([10.0**p for p in range(smallest, largest + 1)], MANY_TICKS // 2)
    marks = [m for m in (*(-p for p in reversed(powers)), 0.0, *powers) if low <= m <= high]
    return Axis(transform(max(-LARGEST, low)), transform(min(LARGEST, high)) or 1.0, transform, tuple(marks))


def range_axis(ranges: Sequence[tuple[float, float]]) -> Axis:
    """For lowest and largest values: to scale, or by logarithm where outliers would hide all others."""
    values = [v for pair in ranges for v in pair]
    sizes = sorted(size for pair in ranges if (size := max(map(abs, pair))) > 0.0)
    typical = sizes[len(sizes) // 2] if sizes else 0.0
    if sizes and 0.0 < typical < sizes[-1] / 20 and sizes[-1] < LARGEST:
        return signed_log_axis(values, max(typical / 2, sizes[-1] / LARGEST))
    return linear_axis(values, zero=True)


def _nice(value: float) -> float:
    """1, 2 or 5 times a power of ten, not below the value."""
    return _round_number(value, up=True) if value > 0.0 else 1.0


def _round_number(value: float, *, up: bool) -> float:
    """The nearest of 1, 2 and 5 times powers of ten above or below."""
    power = math.floor(math.log10(value))
    candidates = [m * 10.0**p for p in (power - 1, power, power + 1) if -320 < p < 308 for m in (1.0, 2.0, 5.0)]
    fitting = [c for c in candidates if (c >= value * 0.9999 if up else 0.0 < c <= value * 1.0001)]
    return min(fitting, default=value) if up else max(fitting, default=value)


def _log_marks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten where they are few, else powers of ten, else some of those."""
    first, last = math.floor(math.log10(low)), min(307, math.ceil(math.log10(high)))
    powers = [10.0**p for p in range(max(-320, first), last + 1)]
    fine = [m * p for p in powers for m in (1.0, 2.0, 5.0) if low * 0.9999 <= m * p <= high * 1.0001]
    if len(fine) <= MANY_TICKS + 2:
        return fine
    return _thinned([p for p in powers if low * 0.9999 <= p <= high * 1.0001])


def _thinned(values: list[float], most: int = MANY_TICKS) -> list[float]:
    step = math.ceil(len(values) / most) if values else 1
    return values[::-1][::step][::-1]
