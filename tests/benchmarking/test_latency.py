"""Latency in reports against a clock of our own, where every run takes as long as we say."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, repeat
from statistics import median

import ml_dtypes
import numpy as np
import pytest

from onnxfq.arrays import Array
from onnxfq.benchmarking import latency
from onnxfq.benchmarking.clocks import Clock
from onnxfq.benchmarking.latency import Latency, compare_latency, compare_speed
from onnxfq.benchmarking.paired import FEWEST, Rounds, time_side_by_side
from onnxfq.session import Session
from onnxfq.signature import Signature, TensorSpec


class Standing:
    """A clock that stands still except while a model runs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def __call__(self) -> float:
        return self.now


class Timed(Session):
    """A model whose runs take the given seconds, in turn; warm-up counts. Its input is text: it runs unbound."""

    def __init__(self, clock: Standing, name: str, seconds: Iterator[float]) -> None:
        self.clock, self.name, self.seconds, self.provider = clock, name, seconds, "cpu"
        self.threads: int | None = None

    def reload(self, threads: int) -> None:
        self.threads = threads

    def signature(self) -> Signature:
        return Signature((TensorSpec("x", "string", (1,)),), ())

    def run(self, feed: Mapping[str, Array], outputs: object = None) -> dict[str, Array]:
        self.clock.order.append(self.name)
        self.clock.now += next(self.seconds)
        return {}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Standing:
    clock = Standing()
    monkeypatch.setattr(latency, "WALL", Clock("wall", clock))
    monkeypatch.setattr(latency, "time_side_by_side", lambda *a, **k: time_side_by_side(*a, **{**k, "elapsed": clock}))
    return clock


def test_runs_are_interleaved_after_a_warm_up_that_does_not_count(clock: Standing) -> None:
    old = Timed(clock, "old", chain([9.0, 9.0], *([7.0, t] for t in (0.010, 0.010, 0.020, 0.020, 0.030, 0.030))))
    new = Timed(clock, "new", chain([9.0, 9.0], *([7.0, t] for t in (0.005, 0.005, 0.005, 0.005, 0.060, 0.060))))
    result = compare_latency(old, new, {}, case="prefill", seconds=0)
    assert clock.order[:4] == ["new", "new", "old", "old"]
    rounds = [clock.order[i : i + 8] for i in range(4, len(clock.order), 8)]
    assert all(r == r[::-1] and sorted(r) == ["new"] * 4 + ["old"] * 4 for r in rounds)
    assert (result.case, result.rounds, len(rounds)) == ("prefill", 3, 3)
    assert result.reference_ms == pytest.approx(10.0)  # a median of 20, but half of that by the speed-up
    assert result.candidate_ms == pytest.approx(5.0)
    assert result.reference_p95_ms == pytest.approx(np.percentile([10, 20, 30] * 2, 95))
    assert result.candidate_p95_ms == pytest.approx(np.percentile([5, 5, 60] * 2, 95))
    assert result.speedup == pytest.approx(2.0)  # median of 2, 4 and 0.5
    assert [result.low, result.high] == pytest.approx([0.5**2 / 4, 4.0**2 / 0.5])  # of 3, beyond the extremes
    json.dumps(dataclasses.asdict(result), allow_nan=False)


@pytest.mark.parametrize(("each", "rounds"), [(1.0, FEWEST), (0.05, 5), (0.0001, 20)])
def test_rounds_follow_from_the_time(each: float, rounds: int, clock: Standing) -> None:
    old, new = (Timed(clock, name, repeat(each)) for name in ("old", "new"))
    assert compare_latency(old, new, {}, seconds=2.0).rounds == pytest.approx(rounds, abs=1)


def test_noise_takes_all_the_time_and_shows_in_the_interval(clock: Standing) -> None:
    times = np.random.default_rng(0).lognormal(0, 0.5, (2, 10_000)) * [[3e-3], [1e-3]]
    old, new = (Timed(clock, name, iter(row.tolist())) for name, row in zip(("old", "new"), times, strict=True))
    result = compare_latency(old, new, {}, seconds=2.0)
    assert 2 <= clock.now < 3
    assert (result.low or 9.0) < 3 < (result.high or 0.0)
    assert (result.high or 0.0) / (result.low or 9.0) > 1.03


def test_the_speed_up_is_that_of_the_times_beside_it() -> None:
    rng = np.random.default_rng(0)
    for count in range(3, 30):
        medians = rng.lognormal(0, 1, (2, count)).tolist()
        found = Latency.of("run", Rounds(medians, medians))
        assert found.speedup == pytest.approx(median(old / new for new, old in zip(*medians, strict=True)))
        assert found.reference_ms / found.candidate_ms == pytest.approx(found.speedup)
        assert (found.low or 9e9) <= found.speedup <= (found.high or 0.0)


class Told:
    """How much of the time was spent waiting for a processor, whenever somebody asks."""

    def __init__(self, *shares: float | None) -> None:
        self.shares = iter(shares)

    def share(self) -> float | None:
        return next(self.shares)


@pytest.mark.parametrize(("shares", "clocks", "threads"), [
    ([0.0] * 3, ["wall"] * 2, None), ([None] * 3, ["wall"] * 2, None), ([0.5] * 2, ["processor"] * 2, 1),
    ([0.0, 0.05, 0.5], ["processor"] * 2, 1), ([0.0, 0.5, 0.5], ["processor"] * 2, 1),
])  # fmt: skip
def test_a_busy_machine_s_clock_is_the_processor_s(
    shares: list[float | None], clocks: list[str], threads: int | None, clock: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "Disturbance", lambda: Told(*shares))
    monkeypatch.setattr(latency, "PROCESSOR", Clock("processor", clock))
    old, new = (Timed(clock, name, repeat(t)) for name, t in (("old", 0.02), ("new", 0.01)))
    found = compare_speed(old, new, {"prefill": {}, "decode": {}})
    assert [x.case for x in found] == ["prefill", "decode"]
    assert [x.clock for x in found] == clocks
    assert [x.label for x in found] == ([f"{x.case} (one thread)" for x in found] if threads else ["prefill", "decode"])
    assert (old.threads, new.threads) == (threads, threads)
    assert [x.speedup for x in found] == pytest.approx([2.0, 2.0])
    monkeypatch.setattr(latency, "Disturbance", lambda: Told(0.5, 0.5, 0.5))
    old.provider = new.provider = "cuda"
    assert {x.clock for x in compare_speed(old, new, {"prefill": {}})} == {"wall"}  # nobody else tells a device's time


def test_a_session_loaded_again_gives_the_same(build_model: Callable[..., bytes]) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y) { y = Neg(x) }'
    session = Session(build_model(text))
    session.reload(threads=1)
    assert session.run({"x": np.ones(2, np.float32)})["y"].tolist() == [-1, -1]


def test_a_clock_too_coarse_divides_nothing_by_zero(clock: Standing) -> None:
    old, new = Timed(clock, "old", repeat(0.0)), Timed(clock, "new", repeat(0.0))
    assert compare_latency(old, new, {}).speedup == 1.0


def test_without_time_there_are_a_few_rounds_all_the_same(clock: Standing) -> None:
    session = Timed(clock, "old", repeat(1.0))
    assert compare_latency(session, session, {}, seconds=0).rounds == FEWEST


def test_text_and_numbers_are_timed(build_model: Callable[..., bytes]) -> None:
    text, numbers = (
        Session(
            build_model(f'<ir_version: 8, opset_import: ["" : 17]> g ({t}[N] x) => ({t}[N] y) {{ y = Identity(x) }}')
        )
        for t in ("string", "bfloat16")
    )
    for session, array in ((text, np.array(["a", "b"], object)), (numbers, np.ones(2, ml_dtypes.bfloat16))):
        assert compare_latency(session, session, {"x": array}, seconds=0).speedup > 0


def test_a_slower_model_is_slower(build_model: Callable[..., bytes]) -> None:
    header = '<ir_version: 8, opset_import: ["" : 17]> g (float[400, 400] x) => (float[400, 400] y) '
    once = Session(build_model(header + "{ y = MatMul(x, x) }"))
    often = Session(
        build_model(
            header
            + "{ "
            + "".join(f"t{i} = MatMul(x, {f't{i - 1}' if i else 'x'}) " for i in range(8))
            + "y = Neg(t7) }"
        )
    )
    result = compare_latency(often, once, {"x": np.ones((400, 400), np.float32)}, seconds=0.1)
    assert result.speedup > 1.5
    assert result.reference_ms > result.candidate_ms > 0
