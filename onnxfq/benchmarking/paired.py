"""Several things timed side by side, in short rounds, until the ratio of their times is known well enough."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil, comb
from time import perf_counter

import numpy as np

from onnxfq.benchmarking.clocks import Clock
from onnxfq.benchmarking.speed_verdict import judge_speed

Sampler = Callable[[], Sequence[float]]
"""Runs some times; returns the seconds of each run."""

CONFIDENCE = 0.99  # reports show several intervals each: one in 20 would be wrong too often
PRECISION = 0.015  # half of an interval, relative to its middle
FEWEST, ENOUGH, MOST = 3, 20, 5000  # rounds: at least, before the precision can end it, at most
_STOPPING = 0.998  # looking again and again needs a stricter interval than looking once
_LOOK_EVERY = 1.1  # times as many rounds as at the last look
_LONGER = 2  # times the time, where what was found until then says nothing
_STOPPED = 10  # times as long as the median round: no program runs that long by itself
SAMPLE_SECONDS = 0.005  # a sample is of so many runs that its first one, which is not timed, weighs little
MOST_RUNS = 32  # a sample
_WARM_UPS = (2, 4)  # runs before anything counts: the first allocate and pack


@dataclass(frozen=True, slots=True)
class Interval:
    """A median and where it lies with 99 % confidence.

    Attributes:
        middle: the median.
        low: lower end.
        high: upper end.
        sure: whether there were enough values, 8, for that confidence; with fewer, the ends are the extremes, moved
            apart by the factor by which they are apart, which holds the median of 3 in 96 of 100 cases, of 4 in 99.
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
    """What was measured: of each candidate the seconds of all runs, and their median in each round.

    Medians, not means: a single run that had to wait for a processor says nothing about the model.

    Attributes:
        runs: seconds of each run, by candidate.
        medians: seconds a run, by candidate and round.
    """

    runs: list[list[float]] = field(default_factory=list)
    medians: list[list[float]] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many rounds."""
        return len(self.medians[0])

    def p95(self, candidate: int) -> float:
        """Seconds that 95 of 100 runs take at most."""
        return float(np.percentile(self.runs[candidate], 95))

    def ratio(self, candidate: int) -> Interval:
        """How many times as long as the first one another candidate takes."""
        return median_interval(self._ratios(candidate))

    def times(self) -> list[float]:
        """Seconds a run takes, by candidate, in exactly the ratios that were found.

        Medians over the rounds, or less: on a busy machine those of some candidates grow beyond the ratios, which
        compare runs of the same moment. What disturbs a run only lengthens it, so the least disturbed median counts.
        """
        ratios = [1.0, *(self.ratio(i).middle for i in range(1, len(self.medians)))]
        pairs = zip(self.medians, ratios, strict=True)
        unit = min(statistics.median(medians) / ratio for medians, ratio in pairs)
        return [unit * ratio for ratio in ratios]

    def is_precise(self) -> bool:
        """Whether all ratios are known well enough to stop; without another candidate, the time itself."""
        of = range(1, len(self.medians)) or (0,)
        found = (median_interval(self._ratios(i) if i else self.medians[0], _STOPPING) for i in of)
        return all(interval.is_precise for interval in found)

    def tells(self) -> bool:
        """Whether a verdict on every ratio can be given."""
        found = (self.ratio(candidate) for candidate in range(1, len(self.medians)))
        return all(judge_speed(interval.low, interval.high) != "unknown" for interval in found)

    def _ratios(self, candidate: int) -> list[float]:
        return [other / first for first, other in zip(self.medians[0], self.medians[candidate], strict=True)]


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The median and an interval for it, whatever the distribution.

    The interval goes from the k-th smallest to the k-th largest value: that the median lies outside is as likely as
    fewer than k heads, or tails, in so many throws of a coin.

    Source: H. A. David, H. N. Nagaraja, "Order Statistics", 3rd edition, section 7.1.

    Args:
        values: independent measurements above 0, at least one.
        confidence: that the interval holds the median.
    """
    ordered = sorted(values)
    rank = _rank(len(ordered), confidence)
    low, high = ordered[max(rank - 1, 0)], ordered[-max(rank, 1)]
    if not rank:
        low, high = low * (low / high), high * (high / low)
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


def make_samplers(runs: Sequence[Callable[[], object]], clock: Clock) -> list[Sampler]:
    """Samplers of all candidates, warmed up, whose samples are of equally many runs.

    Args:
        runs: one a candidate; does once what is to be timed.
        clock: what it is timed with.
    """
    fastest = min(_warm_up(run, clock) for run in runs)
    count = min(ceil(SAMPLE_SECONDS / fastest), MOST_RUNS)
    return [_sampler(run, clock, count) for run in runs]


def _warm_up(run: Callable[[], object], clock: Clock) -> float:
    """Run until no more allocations are to be expected; returns the seconds of the fastest run."""
    least, most = _WARM_UPS
    times = [clock.time(run) for _ in range(least)]
    while min(times) < SAMPLE_SECONDS and len(times) < most:
        times.append(clock.time(run))
    return min(times)


def _sampler(run: Callable[[], object], clock: Clock, count: int) -> Sampler:
    """Timed runs behind one that brings the model back into the caches, out of which the others have driven it."""

    def sample() -> list[float]:
        run()
        return [clock.time(run) for _ in range(count)]

    return sample


def time_side_by_side(
    samplers: Sequence[Sampler],
    *,
    seconds: float,
    rng: np.random.Generator,
    elapsed: Callable[[], float] = perf_counter,
) -> Rounds:
    """Time candidates in rounds, each with a sample of all in random order and then back again: A B C C B A.

    What grows or shrinks steadily during a round hits all alike. It ends when all ratios are known within 1.5 %, or
    when the time is over, but not before 3 rounds; where the verdict on a ratio is still "unknown" then, it goes on for
    the same time again. A round in which the process was stopped counts as a long one, not
    as all the time that there was.

    Args:
        samplers: one a candidate; the first is the one all others are compared with.
        seconds: stop after the first round beyond this time.
        rng: decides about the order.
        elapsed: the clock that `seconds` is meant by.
    """
    found = Rounds([[] for _ in samplers], [[] for _ in samplers])
    lasted: list[float] = []
    look, spent = ENOUGH, 0.0
    while len(lasted) < MOST and (
        len(lasted) < FEWEST or spent < seconds or (spent < _LONGER * seconds and not found.tells())
    ):
        start = elapsed()
        _add_round(found, samplers, rng)
        lasted.append(elapsed() - start)
        spent += min(lasted[-1], _STOPPED * statistics.median(lasted))
        if len(lasted) >= look:
            if found.is_precise():
                break
            look = int(len(lasted) * _LOOK_EVERY) + 1
    return found


def _add_round(found: Rounds, samplers: Sequence[Sampler], rng: np.random.Generator) -> None:
    there = rng.permutation(len(samplers))
    times: list[list[float]] = [[] for _ in samplers]
    for candidate in (*there, *there[::-1]):
        times[candidate] += samplers[candidate]()
    for candidate, runs in enumerate(times):
        found.runs[candidate] += runs
        found.medians[candidate].append(statistics.median(runs))
