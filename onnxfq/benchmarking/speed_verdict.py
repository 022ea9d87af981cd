"""What the interval of a speed-up says in words, and how many digits it and the times beside it deserve."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import floor, log10
from typing import Literal

from onnxfq.metrics.metric import Metric

SpeedWord = Literal["faster", "slower", "about the same", "unknown"]

# Processes of their own find speed-ups of the same two models up to 8 % apart (benchmarks/README.md): where memory
# comes to lie makes two sessions of one file differ by up to 4 %, and no interval of one process can know that.
SAME = 1.05
UNKNOWN = 1.5  # a wider interval, high / low, tells of the machine and not of the models
BUSY = "unknown: the machine is busy"
_LEAST_DIGITS, _MOST_DIGITS = 3, 9  # of a time
_MOST_DECIMALS, _WITHOUT_INTERVAL = 3, 2  # of a ratio


def judge_speed(low: float, high: float) -> SpeedWord:
    """Which of two models is faster, where the interval of their speed-up lets that be said.

    Args:
        low: lower end of the interval.
        high: upper end.

    Returns:
        "unknown" where the interval is wider than a factor of 1.5; "about the same" where it reaches to within 5 % of
        1, which one process cannot tell from 1.
    """
    if high > UNKNOWN * low:
        return "unknown"
    if low > SAME:
        return "faster"
    return "slower" if high < 1 / SAME else "about the same"


def speed_text(ratio: float, low: float | None, high: float | None) -> str:
    """A speed-up for people: `1.3x as fast`, `about the same`; the ratio with the digits that its interval deserves."""
    if low is None or high is None:
        return f"{ratio:.{_WITHOUT_INTERVAL}f}x as fast"
    word = judge_speed(low, high)
    if word in ("faster", "slower"):
        return f"{ratio:.{decimals(low, high)}f}x as fast"
    return BUSY if word == "unknown" else word


def interval_texts(low: float, high: float) -> tuple[str, str]:
    """The ends of an interval, with as many decimals as the ratio has, and no fewer than 2."""
    shown = max(decimals(low, high), 2)
    return f"{low:.{shown}f}", f"{high:.{shown}f}"


def speed_metric(case: str, ratio: float, low: float | None, high: float | None) -> Metric:
    """A speed-up for a gate to be held against: the lower bound of its interval, and what that is of.

    Args:
        case: what was run.
        ratio: the speed-up, which counts where there is no interval.
        low: lower end of the interval.
        high: upper end.
    """
    if low is None or high is None:
        return Metric("speedup", ratio, note=f"of {case}")
    busy = "; the machine was busy" if judge_speed(low, high) == "unknown" else ""
    return Metric("speedup", low, note=f"lower bound of {' to '.join(interval_texts(low, high))}, {case}{busy}")


def shown_decimals(low: float | None, high: float | None) -> int | None:
    """How many decimals the ratio is printed with; None where a word stands in its place."""
    if low is None or high is None:
        return _WITHOUT_INTERVAL
    return decimals(low, high) if judge_speed(low, high) in ("faster", "slower") else None


def decimals(low: float, high: float) -> int:
    """How many decimals a ratio deserves: so many that its last digit is uncertain by a few, at most 3."""
    half = max((high - low) / 2, 10.0**-_MOST_DECIMALS)
    return min(max(floor(-log10(half)) + 1, 0), _MOST_DECIMALS)


def time_texts(first: float, others: Sequence[float], places: Sequence[int | None]) -> list[str]:
    """Times with so many digits that every ratio beside them is the quotient of what is shown.

    Args:
        first: the time that the others are divided by.
        others: the other times.
        places: decimals of each ratio; None where it is not shown.

    Returns:
        The texts, of the first one first; of 3 digits, or more where it takes more.
    """
    times = (first, *others)
    wanted = list(_quotients(times, places))
    for digits in range(_LEAST_DIGITS, _MOST_DIGITS + 1):
        texts = [_rounded(time, digits) for time in times]
        if list(_quotients([float(text) for text in texts], places)) == wanted:
            return texts
    return [_rounded(time, _LEAST_DIGITS) for time in times]


def _quotients(times: Sequence[float], places: Sequence[int | None]) -> Iterator[str]:
    for time, place in zip(times[1:], places, strict=True):
        yield "" if place is None or not times[0] else f"{time / times[0]:.{place}f}"


def _rounded(time: float, digits: int) -> str:
    """With so many digits, and no exponent."""
    return f"{time:.{max(digits - 1 - floor(log10(time)), 0)}f}" if time > 0 else "0"
