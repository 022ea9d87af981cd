"""Latency against a clock of our own, where every run takes as long as we say."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest

from onnxfq.arrays import Array
from onnxfq.benchmarking import latency
from onnxfq.benchmarking.latency import measure
from onnxfq.errors import UsageError
from onnxfq.session import Session


class Clock:
    """Stands still except while a model runs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def __call__(self) -> float:
        return self.now


class Timed(Session):
    """A model whose runs take the given seconds, in turn; warm-up counts."""

    def __init__(self, clock: Clock, name: str, seconds: Iterator[float]) -> None:
        self.clock, self.name, self.seconds = clock, name, seconds

    def run(self, feed: Mapping[str, Array], outputs: object = None) -> dict[str, Array]:
        self.clock.order.append(self.name)
        self.clock.now += next(self.seconds)
        return {}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(latency, "perf_counter", clock)
    return clock


def always(seconds: float) -> Iterator[float]:
    while True:
        yield seconds


def test_runs_are_interleaved_after_a_warm_up_that_does_not_count(clock: Clock) -> None:
    old = Timed(clock, "old", iter([9.0, 9.0, 0.010, 0.020, 0.030]))
    new = Timed(clock, "new", iter([9.0, 9.0, 0.005, 0.005, 0.060]))
    result = measure(old, new, {}, case="prefill", rounds=3)
    assert clock.order == ["old", "new"] * 5
    assert (result.case, result.rounds) == ("prefill", 3)
    assert result.reference_ms == pytest.approx(20.0)
    assert result.candidate_ms == pytest.approx(5.0)
    assert result.reference_p95_ms == pytest.approx(np.percentile([10, 20, 30], 95))
    assert result.candidate_p95_ms == pytest.approx(np.percentile([5, 5, 60], 95))
    assert result.speedup == pytest.approx(2.0)  # median of 2, 4 and 0.5
    json.dumps(dataclasses.asdict(result), allow_nan=False)


@pytest.mark.parametrize(("each", "rounds"), [(1.0, 5), (0.1, 10), (0.0001, 1000)])
def test_rounds_follow_from_the_time(each: float, rounds: int, clock: Clock) -> None:
    result = measure(Timed(clock, "old", always(each)), Timed(clock, "new", always(each)), {}, seconds=2.0)
    assert result.rounds == pytest.approx(rounds, abs=1)


def test_a_clock_too_coarse_divides_nothing_by_zero(clock: Clock) -> None:
    assert measure(Timed(clock, "old", always(0.0)), Timed(clock, "new", always(0.0)), {}).speedup == 1.0


def test_no_rounds_are_refused(clock: Clock) -> None:
    session = Timed(clock, "old", always(1.0))
    with pytest.raises(UsageError, match=r"at least one round \(got rounds=0\)\. Use 1 or more\."):
        measure(session, session, {}, rounds=0)


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
    result = measure(often, once, {"x": np.ones((400, 400), np.float32)}, seconds=0.1)
    assert result.speedup > 1.5
    assert result.reference_ms > result.candidate_ms > 0
