"""Figures for people, with the digits that they deserve: what few samples gave is not known to four."""

from __future__ import annotations

import math
from collections.abc import Sequence

FEW_SAMPLES = 8
_DIGITS, _DIGITS_OF_FEW = 3, 2
_MOST_DECIMALS = 12


def figure_text(value: float, samples: int = 0) -> str:
    """Three significant digits; two where it comes from few samples.

    Args:
        value: the figure.
        samples: how many it comes from; 0 where that is not known, or does not matter.
    """
    digits = _digits(samples)
    large = math.isfinite(value) and 10**digits <= abs(value) < 10**6
    return f"{value:.0f}" if large else f"{value:.{digits}g}"


def cosine_text(value: float, samples: int = 0) -> str:
    """With the digits that tell it from 1: 0.9973, 0.83."""
    return f"{value:.{_decimals(1 - value, _digits(samples))}f}"


def share_text(value: float, samples: int = 0) -> str:
    """In per cent, with the digits that tell it from 0 and from 100 %: 84.2 %, 99.98 %."""
    decimals = _decimals(min(value, 1 - value), _digits(samples))
    return f"{100 * value:.{max(0, decimals - 2)}f} %"


def uncertain_text(value: float, error: float | None, sign: str = "") -> str:
    """With the two digits of its standard error that mean something; three significant ones where that is not known."""
    if error is None or not error > 0.0:
        return f"{value:{sign}.4g}"
    return f"{value:{sign}.{min(_MOST_DECIMALS, max(0, 1 - math.floor(math.log10(error))))}f}"


def overlap(ranges: Sequence[tuple[float, float]]) -> bool:
    """Whether the first range has a value in common with one of the others."""
    low, high = ranges[0]
    return any(other_low <= high and low <= other_high for other_low, other_high in ranges[1:])


def _digits(samples: int) -> int:
    return _DIGITS_OF_FEW if 0 < samples <= FEW_SAMPLES else _DIGITS


def _decimals(distance: float, digits: int) -> int:
    """Decimals that show all but one of so many significant digits of a distance, and no fewer than so many."""
    if not 0.0 < distance < 1.0:
        return digits
    return min(_MOST_DECIMALS, max(digits, digits - 2 - math.floor(math.log10(distance))))
