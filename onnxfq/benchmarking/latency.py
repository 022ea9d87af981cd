"""How fast two models run, measured side by side so that a busy machine slows both."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from onnxfq.arrays import Array
from onnxfq.errors import UsageError
from onnxfq.session import Session

MIN_ROUNDS = 5
MAX_ROUNDS = 1000


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds a run, of the reference and of the candidate.

    Attributes:
        case: what was run, such as "prefill, 128 tokens".
        reference_ms: median.
        reference_p95_ms: 95th percentile.
        candidate_ms: median.
        candidate_p95_ms: 95th percentile.
        speedup: median over the rounds of reference / candidate; above 1 the candidate is faster.
        rounds: how many times each ran, warm-up not counted.
    """

    case: str
    reference_ms: float
    reference_p95_ms: float
    candidate_ms: float
    candidate_p95_ms: float
    speedup: float
    rounds: int


def measure(
    reference: Session,
    candidate: Session,
    feed: Mapping[str, Array],
    *,
    case: str = "run",
    seconds: float = 2.0,
    rounds: int | None = None,
) -> Latency:
    """Time both models in turn on the same inputs: reference, candidate, reference, candidate.

    Args:
        reference: the model before.
        candidate: the model after.
        feed: inputs of one run, for both.
        case: what is run, for the report.
        seconds: stop after the first round beyond this time, but not before 5 rounds.
        rounds: this many rounds, whatever the time; None lets `seconds` decide.

    Raises:
        UsageError: fewer than one round.
        DataError: the feed does not fit a model.
        ModelError: a model does not run.
    """
    if rounds is not None and rounds < 1:
        raise UsageError(f"Latency needs at least one round (got rounds={rounds}). Use 1 or more.")
    for session in (reference, candidate, reference, candidate):  # warm-up: first runs allocate and pack
        session.run(feed)
    before, after = _time_in_turn(reference, candidate, feed, seconds, rounds)
    return Latency(
        case=case,
        reference_ms=1e3 * statistics.median(before),
        reference_p95_ms=1e3 * float(np.percentile(before, 95)),
        candidate_ms=1e3 * statistics.median(after),
        candidate_p95_ms=1e3 * float(np.percentile(after, 95)),
        speedup=statistics.median(old / new for old, new in zip(before, after, strict=True)),
        rounds=len(before),
    )


def _time_in_turn(
    reference: Session, candidate: Session, feed: Mapping[str, Array], seconds: float, rounds: int | None
) -> tuple[list[float], list[float]]:
    """Seconds of each run of the reference and of the candidate."""
    before: list[float] = []
    after: list[float] = []
    start = perf_counter()
    while not _enough(len(before), perf_counter() - start, seconds, rounds):
        before.append(_time(reference, feed))
        after.append(_time(candidate, feed))
    return before, after


def _enough(done: int, elapsed: float, seconds: float, rounds: int | None) -> bool:
    if rounds is not None:
        return done >= rounds
    return done >= MAX_ROUNDS or (done >= MIN_ROUNDS and elapsed >= seconds)


def _time(session: Session, feed: Mapping[str, Array]) -> float:
    """Seconds of one run, never 0."""
    start = perf_counter()
    session.run(feed)
    return max(perf_counter() - start, 1e-9)
