"""Rounds and intervals against clocks and noise of our own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import repeat

import numpy as np
import pytest

from onnxfq.benchmarking.clocks import Clock
from onnxfq.benchmarking.paired import (
    MOST,
    MOST_RUNS,
    Rounds,
    Sampler,
    make_samplers,
    median_interval,
    time_side_by_side,
)
from onnxfq.benchmarking.speed_verdict import judge_speed

Draw = Callable[[], float]


class World:
    """A clock that only runs of models advance."""

    def __init__(self) -> None:
        self.now, self.order = 0.0, ""

    def sampler(self, name: str, draw: Draw, often: int = 2) -> Sampler:
        def sample() -> Sequence[float]:
            self.order += name
            times = [draw() for _ in range(often)]
            self.now += sum(times)
            return times

        return sample

    def time(self, *samplers: Sampler, seconds: float = 20.0, seed: int = 0) -> Rounds:
        return time_side_by_side(samplers, seconds=seconds, rng=np.random.default_rng(seed), elapsed=lambda: self.now)


class Ticking:
    """A clock of whole ticks: runs advance it, as far as each is told to."""

    def __init__(self) -> None:
        self.now, self.order = 0.0, ""
        self.clock = Clock("wall", lambda: self.now)

    def run(self, name: str, seconds: Iterator[float]) -> Callable[[], None]:
        def go() -> None:
            self.order += name
            self.now += next(seconds)

        return go


def noisy(rng: np.random.Generator, mean: float, noise: float) -> Draw:
    """Times as on a machine with other programs: some runs take many times as long."""
    return lambda: mean * float(rng.lognormal(0, noise)) * (1 + 20 * (rng.random() < 0.1))


def test_every_round_goes_there_and_back() -> None:
    world = World()
    names = "abc"
    world.time(*(world.sampler(name, lambda: 1.0) for name in names), seconds=0)
    assert len(world.order) == 3 * 6
    rounds = [world.order[i : i + 6] for i in range(0, 18, 6)]
    assert all(r == r[::-1] and set(r) == set(names) for r in rounds)


def test_the_order_is_random_but_reproducible() -> None:
    orders = []
    for seed in (0, 0, 1):
        world = World()
        world.time(*(world.sampler(name, lambda: 1.0) for name in "abcd"), seconds=200, seed=seed)
        orders.append(world.order)
    assert orders[0] == orders[1] != orders[2]


def test_a_run_that_had_to_wait_does_not_count() -> None:
    world = World()
    waits = iter([0.1, 0.1, 9.0] * 1000)
    a, b = world.sampler("a", lambda: next(waits), often=6), world.sampler("b", lambda: 0.3, often=6)
    ratio = world.time(a, b, seconds=1e9).ratio(1)
    assert [ratio.low, ratio.high] == pytest.approx([3, 3])


def test_steady_growth_favours_nobody() -> None:
    world = World()
    growing = iter(np.arange(1.0, 1e4))
    a, b = (world.sampler(name, lambda: float(next(growing)), often=1) for name in "ab")
    assert world.time(a, b, seconds=1e5).ratio(1).middle == pytest.approx(1, abs=1e-12)


def test_it_ends_as_soon_as_the_ratio_is_known() -> None:
    world = World()
    found = world.time(world.sampler("a", lambda: 0.01), world.sampler("b", lambda: 0.03), seconds=1e9)
    assert found.count == 20
    ratio = found.ratio(1)
    assert ratio.middle == pytest.approx(3)
    assert ratio.is_precise
    assert [len(runs) for runs in found.runs] == [80, 80]


def test_it_ends_when_the_time_is_over_and_says_that_the_ratio_is_not_known() -> None:
    world, rng = World(), np.random.default_rng(0)
    found = world.time(*(world.sampler(n, noisy(rng, 0.1, 0.3)) for n in "ab"), seconds=300)
    assert 300 <= world.now < 330
    assert not found.ratio(1).is_precise
    few = World()
    found = few.time(*(few.sampler(n, lambda: 100.0) for n in "ab"), seconds=1)
    assert found.count == 3
    assert not found.ratio(1).is_precise  # alike by chance, for all one knows


def test_being_stopped_for_long_does_not_use_up_the_time() -> None:
    world = World()
    times = iter([0.1] * 40 + [500.0] + [0.1] * 10_000)
    rng = np.random.default_rng(0)
    found = world.time(*(world.sampler(n, lambda: next(times) * rng.lognormal(0, 0.4)) for n in "ab"), seconds=30)
    assert found.count > 20  # of 11, had all of those 500 s counted


def test_a_clock_that_stands_still_does_not_run_for_ever() -> None:
    world, rng = World(), np.random.default_rng(0)
    sampler: Sampler = lambda: [float(rng.lognormal(0, 3))]  # noqa: E731
    assert world.time(sampler, sampler).count <= MOST


def test_without_another_the_time_itself_is_to_be_known() -> None:
    world = World()
    assert world.time(world.sampler("a", lambda: 0.01), seconds=1e9).count == 20


def test_the_interval_holds_the_true_ratio_as_often_as_it_says() -> None:
    inside = 0
    for seed in range(200):
        world, rng = World(), np.random.default_rng(seed)
        found = world.time(
            *(world.sampler(n, noisy(rng, t, 0.3)) for n, t in zip("ab", (0.1, 0.4), strict=True)), seconds=300
        )
        ratio = found.ratio(1)
        assert ratio.sure
        inside += ratio.low <= 4 <= ratio.high
    assert inside >= 180


@pytest.mark.parametrize("apart", [1.0, 1.03])
@pytest.mark.parametrize("noise", [0.05, 0.5])
def test_two_copies_of_one_file_are_never_called_faster_or_slower(apart: float, noise: float) -> None:
    """Where memory comes to lie makes two sessions differ, as long as they live."""
    words = []
    for seed in range(60):
        world, rng = World(), np.random.default_rng(seed)
        samplers = [world.sampler(n, noisy(rng, t, noise)) for n, t in zip("ab", (0.1, 0.1 * apart), strict=True)]
        ratio = world.time(*samplers, seconds=60).ratio(1)
        words.append(judge_speed(ratio.low, ratio.high))
    assert set(words) <= {"about the same", "unknown"}
    assert noise > 0.1 or set(words) == {"about the same"}


def test_two_measurements_of_the_same_agree_when_both_are_precise() -> None:
    ratios = []
    for seed in range(20):
        world, rng = World(), np.random.default_rng(seed)
        samplers = [world.sampler(n, noisy(rng, t, 0.1)) for n, t in zip("ab", (0.01, 0.036), strict=True)]
        ratio = world.time(*samplers, seconds=600).ratio(1)
        assert ratio.is_precise
        ratios.append(ratio.middle)
    assert max(ratios) / min(ratios) < 1.03


def test_every_sample_begins_with_a_run_that_is_not_timed() -> None:
    ticking = Ticking()
    times = iter([9.0] * 4 + [5.0] + [0.004] * 3)
    (sample,) = make_samplers([ticking.run("a", times)], ticking.clock)
    assert ticking.order == "aa"  # warm-up
    assert sample() == pytest.approx([9.0])
    assert ticking.order == "aaaa"
    assert sample() == pytest.approx([0.004])
    assert ticking.order == "aaaaaa"


@pytest.mark.parametrize(("fast", "slow", "runs", "warm_ups"), [
    (0.002, 0.1, 3, "aaaabb"), (0.1, 1.0, 1, "aabb"), (1e-6, 1.0, MOST_RUNS, "aaaabb"),
    (0.0, 0.0, MOST_RUNS, "aaaabbbb"),
])  # fmt: skip
def test_all_run_equally_often_in_a_sample(fast: float, slow: float, runs: int, warm_ups: str) -> None:
    ticking = Ticking()
    samplers = make_samplers([ticking.run("a", repeat(fast)), ticking.run("b", repeat(slow))], ticking.clock)
    assert ticking.order == warm_ups
    assert [len(sample()) for sample in samplers] == [runs, runs]


def test_times_are_medians_over_rounds() -> None:
    rounds = Rounds([[1.0, 1.0, 5.0, 9.0], [2.0, 2.0, 2.0, 2.0]], [[1.0, 7.0, 3.0], [2.0, 2.0, 2.0]])
    assert rounds.times() == pytest.approx([3.0, 2.0])
    assert rounds.p95(0) == pytest.approx(np.percentile([1, 1, 5, 9], 95))
    alone = Rounds([[1.0, 2.0, 6.0]], [[1.0, 2.0, 6.0]])
    assert (alone.times(), alone.count) == ([2.0], 3)


def test_times_are_in_the_ratios_found_and_never_above_their_medians() -> None:
    """On machines that slow down for a while, with single runs that wait."""
    apart = 0.0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        slow = 1 + (np.sin(np.arange(40) / rng.uniform(2, 20)) > 0.1)
        noise = rng.lognormal(0, 0.05, (3, 40)) * (1 + 9 * (rng.random((3, 40)) < 0.1))
        medians = (slow * noise * [[1.0], [2.5], [0.5]]).tolist()
        rounds = Rounds(medians, medians)
        times, usual = rounds.times(), np.median(medians, axis=1)
        for other in (1, 2):
            assert times[other] / times[0] == pytest.approx(rounds.ratio(other).middle)
            apart = max(apart, abs(usual[other] / usual[0] / rounds.ratio(other).middle - 1))
        assert all(times <= usual * (1 + 1e-12))
        assert all(times > 0.9 * np.array([1.0, 2.5, 0.5]))
    assert apart > 0.03  # as medians would have been


@pytest.mark.parametrize(("count", "covered"), [
    (8, 0.992), (10, 0.998), (11, 0.999), (60, 0.993), (61, 0.993), (400, 0.992)
])  # fmt: skip
def test_the_interval_of_a_median_covers_as_promised(count: int, covered: float) -> None:
    rng = np.random.default_rng(count)
    found = [median_interval(rng.exponential(size=count).tolist()) for _ in range(2000)]
    share = np.mean([i.low <= np.log(2) <= i.high for i in found])
    assert all(i.sure for i in found)
    assert share == pytest.approx(covered, abs=0.015)  # from the binomial distribution


@pytest.mark.parametrize("count", [1, 2, 7])
def test_too_few_values_give_more_than_their_extremes_and_no_certainty(count: int) -> None:
    interval = median_interval([float(v) for v in range(1, count + 1)])
    assert [interval.low, interval.high] == pytest.approx([1 / count, count**2])
    assert (interval.sure, interval.is_precise) == (False, False)


@pytest.mark.parametrize(("count", "covered"), [(3, 0.96), (4, 0.99), (5, 0.998)])
def test_what_goes_beyond_the_extremes_of_few_values_mostly_holds_the_median(count: int, covered: float) -> None:
    rng = np.random.default_rng(count)
    found = [median_interval(rng.lognormal(0, 0.3, count).tolist()) for _ in range(3000)]
    assert np.mean([i.low <= 1 <= i.high for i in found]) == pytest.approx(covered, abs=0.01)


def test_it_goes_on_for_the_same_time_again_where_the_verdict_is_unknown() -> None:
    world, rng = World(), np.random.default_rng(0)
    found = world.time(*(world.sampler(n, lambda: float(rng.lognormal(0, 3))) for n in "ab"), seconds=300)
    assert world.now >= 600
    assert not found.tells()
    world = World()
    known = world.time(*(world.sampler(n, noisy(rng, 0.1, 0.3)) for n in "ab"), seconds=300)
    assert world.now < 330
    assert known.tells()


def test_how_wide_an_interval_is() -> None:
    assert median_interval([1.0] * 5 + [1.1] * 6 + [1.3] * 5).half_width == pytest.approx(0.2 / 1.1)
