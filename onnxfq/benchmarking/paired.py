"""Several things timed side by side, in short rounds, until the ratio of their times is known well enough."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import comb
from time import perf_counter

import numpy as np

Visit = Callable[[], Sequence[float]]  # runs some times; returns the seconds of each run

CONFIDENCE = 0.95
PRECISION = 0.015  # half of an interval, relative to its middle
FEWEST, ENOUGH, MOST = 3, 20, 5000  # rounds: at least, before the precision can end it, at most
_STOPPING = 0.99  # looking again and again needs a stricter interval than looking once
_LOOK_EVERY = 1.1  # times as many rounds as at the last look
_STOPPED = 10  # times as long as the median round: no program runs that long by itself


@dataclass(frozen=True, slots=True)
class Interval:
    """A median and where it lies with 95 % confidence.

    Attributes:
        middle: the median.
        low: lower end.
        high: upper end.
        sure: whether there were enough values for that confidence; with too few, the ends are the extremes.
    """

    middle: float
    low: float
    high: float
    sure: bool = True

    @property
    def half_width(self) -> float:
        """The larger distance of an end from the middle, relative to it."""
        return max(self.high - self.middle, self.middle - self.low) / self.middle

    @property
    def is_precise(self) -> bool:
        """Whether it is sure and within 1.5 % on both sides."""
        return self.sure and self.half_width <= PRECISION


@dataclass(frozen=True, slots=True)
class Rounds:
    """What was measured: of each contestant the seconds of all runs, and their median in each round.

    Medians, not means: a single run that had to wait for a processor says nothing about the model.

    Attributes:
        runs: seconds of each run, by contestant.
        medians: seconds a run, by contestant and round.
    """

    runs: list[list[float]] = field(default_factory=list)
    medians: list[list[float]] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many rounds."""
        return len(self.medians[0])

    def ratio(self, contestant: int) -> Interval:
        """How many times as long as the first one another contestant takes."""
        return median_interval(self._ratios(contestant))

    def is_precise(self) -> bool:
        """Whether all ratios are known well enough to stop; without another contestant, the time itself."""
        of = range(1, len(self.medians)) or (0,)
        found = (median_interval(self._ratios(i) if i else self.medians[0], _STOPPING) for i in of)
        return all(interval.is_precise for interval in found)

    def _ratios(self, contestant: int) -> list[float]:
        return [other / first for first, other in zip(self.medians[0], self.medians[contestant], strict=True)]


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The median and an interval for it, whatever the distribution.

    The interval goes from the k-th smallest to the k-th largest value: that the median lies outside is as likely as
    fewer than k heads, or tails, in so many throws of a coin.

    Source: H. A. David, H. N. Nagaraja, "Order Statistics", 3rd edition, section 7.1.

    Args:
        values: independent measurements, at least one.
        confidence: that the interval holds the median.
    """
    ordered = sorted(values)
    rank = _rank(len(ordered), confidence)
    low, high = ordered[max(rank - 1, 0)], ordered[-max(rank, 1)]
    return Interval(statistics.median(ordered), low, high, sure=rank > 0)


def _rank(count: int, confidence: float) -> int:
    """The largest k for which fewer than k heads in `count` throws are unlikely enough; 0 where none is."""
    outside = (1 - confidence) / 2
    if count > 60:
        z = statistics.NormalDist().inv_cdf(1 - outside)
        return int((count - z * count**0.5) / 2)
    rank, likely = 0, 0.0
    while (likely := likely + comb(count, rank) / 2**count) <= outside:
        rank += 1
    return rank


def time_side_by_side(
    visits: Sequence[Visit], *, seconds: float, rng: np.random.Generator, elapsed: Callable[[], float] = perf_counter
) -> Rounds:
    """Time contestants in rounds, each of which visits all in random order and then back again: A B C C B A.

    What grows or shrinks steadily during a round hits all alike. It ends when all ratios are known within 1.5 %, or
    when the time is over, but not before 3 rounds. A round in which the process was stopped counts as a long one, not
    as all the time that there was.

    Args:
        visits: one a contestant; the first is the one all others are compared with.
        seconds: stop after the first round beyond this time.
        rng: decides about the order.
        elapsed: the clock that `seconds` is meant by.
    """
    found = Rounds([[] for _ in visits], [[] for _ in visits])
    lasted: list[float] = []
    look, spent = ENOUGH, 0.0
    while len(lasted) < MOST and (spent < seconds or len(lasted) < FEWEST):
        start = elapsed()
        _add_round(found, visits, rng)
        lasted.append(elapsed() - start)
        spent += min(lasted[-1], _STOPPED * statistics.median(lasted))
        if len(lasted) >= look:
            if found.is_precise():
                break
            look = int(len(lasted) * _LOOK_EVERY) + 1
    return found


def _add_round(found: Rounds, visits: Sequence[Visit], rng: np.random.Generator) -> None:
    there = rng.permutation(len(visits))
    times: list[list[float]] = [[] for _ in visits]
    for contestant in (*there, *there[::-1]):
        times[contestant] += visits[contestant]()
    for contestant, runs in enumerate(times):
        found.runs[contestant] += runs
        found.medians[contestant].append(statistics.median(runs))
