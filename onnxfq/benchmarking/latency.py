"""How fast two models run on the same inputs, for reports: measured side by side, as `benchmark` does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnxfq.benchmarking.clocks import WALL
from onnxfq.benchmarking.decoding import Repeated
from onnxfq.benchmarking.paired import Rounds, make_samplers, time_side_by_side
from onnxfq.feeds import Feed
from onnxfq.session import Session

SEED = 0


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
        low: lower end of the speed-up's 95 % interval, or of all rounds where they are fewer than 6; None in reports
            that were made without one.
        high: upper end.
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

    @classmethod
    def of(cls, case: str, rounds: Rounds) -> Latency:
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
        )


def compare_latency(
    reference: Session, candidate: Session, feed: Feed, *, case: str = "run", seconds: float = 2.0
) -> Latency:
    """Time both models side by side on the same inputs, by the wall's clock.

    Args:
        reference: the model before.
        candidate: the model after.
        feed: inputs of one run, for both.
        case: what is run, for the report.
        seconds: stop after the first round beyond this time, but not before 3 rounds.

    Raises:
        DataError: the feed does not fit a model.
        ModelError: a model does not run.
    """
    samplers = make_samplers([_run_of(session, feed) for session in (candidate, reference)], WALL)
    return Latency.of(case, time_side_by_side(samplers, seconds=seconds, rng=np.random.default_rng(SEED)))


def _run_of(session: Session, feed: Feed) -> Callable[[], object]:
    """A run whose values stay where the model runs; through host memory where text is among them."""
    signature = session.signature()
    if any(spec.dtype == "string" for spec in (*signature.inputs, *signature.outputs)):  # which cannot be bound
        return lambda: session.run(feed)
    return Repeated(session, feed).run
