"""How fast two models run on the same inputs, for reports: measured side by side, as `benchmark` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from onnxfq.benchmarking.clocks import PROCESSOR, WALL, Clock, ClockName, Disturbance
from onnxfq.benchmarking.decoding import Repeated
from onnxfq.benchmarking.paired import Rounds, make_samplers, time_side_by_side
from onnxfq.benchmarking.speed_verdict import (
    SpeedWord,
    interval_texts,
    judge_speed,
    shown_decimals,
    speed_text,
    time_texts,
)
from onnxfq.feeds import Feed
from onnxfq.providers import facts
from onnxfq.session import Session

SEED = 0
PROBE_SECONDS = 0.2  # in which it shows whether the machine is busy
DISTURBED = 0.1  # share of the time spent waiting for a processor, above which the wall's clock tells of the machine
PATIENCE = 3  # times as long on the wall as on a processor, at most


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds a run, of the reference and of the candidate.

    Attributes:
        case: what was run, such as "prefill, 128 tokens".
        reference_ms: median over the rounds, or what the candidate's is by the speed-up, if that is less.
        reference_p95_ms: 95th percentile of all runs.
        candidate_ms: the same; so reference_ms / candidate_ms is the speed-up.
        candidate_p95_ms: 95th percentile of all runs.
        speedup: median over the rounds of reference / candidate; above 1 the candidate is faster.
        rounds: in each of which both models ran, one after the other and back again.
        low: lower end of the speed-up's 99 % interval; None in reports that were made without one.
        high: upper end.
        clock: "wall", or on a machine that other programs keep busy "processor": how long one thread was on a
            processor, with no other threads to help it.
    """

    case: str
    reference_ms: float
    reference_p95_ms: float
    candidate_ms: float
    candidate_p95_ms: float
    speedup: float
    rounds: int
    low: float | None = None
    high: float | None = None
    clock: ClockName = "wall"

    @property
    def verdict(self) -> SpeedWord:
        """Whether the candidate is faster, as far as the interval tells; "unknown" without one."""
        return "unknown" if self.low is None or self.high is None else judge_speed(self.low, self.high)

    @property
    def label(self) -> str:
        """The case for people, with the clock where that is not the wall's."""
        return self.case if self.clock == "wall" else f"{self.case} (one thread)"

    @property
    def speedup_text(self) -> str:
        """For people: `1.32x as fast`, `about the same`, `unknown: the machine is busy`."""
        return speed_text(self.speedup, self.low, self.high)

    @property
    def interval_texts(self) -> tuple[str, str] | None:
        """The ends of the interval, for people; None without one."""
        return None if self.low is None or self.high is None else interval_texts(self.low, self.high)

    @property
    def time_texts(self) -> tuple[str, str]:
        """Milliseconds of reference and candidate, with so many digits that the speed-up is their quotient."""
        places = [shown_decimals(self.low, self.high)]
        candidate, reference = time_texts(self.candidate_ms, [self.reference_ms], places)
        return reference, candidate

    @classmethod
    def of(cls, case: str, rounds: Rounds, clock: ClockName = "wall") -> Latency:
        """From rounds of the candidate and the reference, in this order."""
        speedup, (candidate, reference) = rounds.ratio(1), rounds.times()
        return cls(
            case=case,
            reference_ms=1e3 * reference,
            reference_p95_ms=1e3 * rounds.p95(1),
            candidate_ms=1e3 * candidate,
            candidate_p95_ms=1e3 * rounds.p95(0),
            speedup=speedup.middle,
            rounds=rounds.count,
            low=speedup.low,
            high=speedup.high,
            clock=clock,
        )


def compare_speed(
    reference: Session, candidate: Session, cases: Mapping[str, Feed], *, seconds: float = 2.0
) -> tuple[Latency, ...]:
    """Time both models side by side on each case, by the clock that tells about them and not about the machine.

    That is the wall's, while the machine is quiet. Where other programs keep the processors busy, both models are
    loaded again with one thread each, and the time counts for which that was on a processor. They stay so: use the
    sessions for nothing else afterwards.

    Args:
        reference: the model before.
        candidate: the model after.
        cases: inputs of one run, for both, by what is run.
        seconds: for each case, by the clock that is used; on a busy machine it takes up to three times as long.

    Raises:
        DataError: a feed does not fit a model.
        ModelError: a model does not run.
    """
    disturbance, found = Disturbance(), []
    if cases and seconds > PROBE_SECONDS:
        compare_latency(reference, candidate, next(iter(cases.values())), seconds=PROBE_SECONDS)
    for case, feed in cases.items():
        if _is_disturbed(disturbance, reference):
            break
        found.append(compare_latency(reference, candidate, feed, case=case, seconds=seconds))
    if not _is_disturbed(disturbance, reference):
        return tuple(found)
    for session in (reference, candidate):
        session.reload(threads=1)
    return tuple(
        compare_latency(reference, candidate, feed, case=case, seconds=seconds, clock=PROCESSOR)
        for case, feed in cases.items()
    )


def _is_disturbed(disturbance: Disturbance, session: Session) -> bool:
    """Whether the wall's clock does not tell about the models, and the processor's could."""
    return facts(session.provider).host_memory and (disturbance.share() or 0) > DISTURBED


def compare_latency(
    reference: Session,
    candidate: Session,
    feed: Feed,
    *,
    case: str = "run",
    seconds: float = 2.0,
    clock: Clock | None = None,
) -> Latency:
    """Time both models side by side on the same inputs.

    Args:
        reference: the model before.
        candidate: the model after.
        feed: inputs of one run, for both.
        case: what is run, for the report.
        seconds: stop after the first round beyond this time, but not before 3 rounds.
        clock: what times are measured with; None is the wall's. The processor's knows of one thread only.

    Raises:
        DataError: the feed does not fit a model.
        ModelError: a model does not run.
    """
    timer = clock or WALL
    samplers = make_samplers([_run_of(session, feed) for session in (candidate, reference)], timer)
    elapsed = {} if timer is WALL else {"elapsed": _patient(timer)}
    rounds = time_side_by_side(samplers, seconds=seconds, rng=np.random.default_rng(SEED), **elapsed)
    return Latency.of(case, rounds, timer.name)


def _patient(clock: Clock) -> Callable[[], float]:
    """A clock's time, or a part of the wall's where that is more: whoever hardly gets a processor has to end too."""
    starts = clock.read(), perf_counter()
    return lambda: max(clock.read() - starts[0], (perf_counter() - starts[1]) / PATIENCE)


def _run_of(session: Session, feed: Feed) -> Callable[[], object]:
    """A run whose values stay where the model runs; through host memory where text is among them."""
    signature = session.signature()
    if any(spec.dtype == "string" for spec in (*signature.inputs, *signature.outputs)):  # which cannot be bound
        return lambda: session.run(feed)
    return Repeated(session, feed).run
