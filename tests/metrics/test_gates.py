"""Gates hold or fail; a missing figure fails."""

from __future__ import annotations

from typing import Any

import pytest

from onnxfq.benchmarking.latency import Latency
from onnxfq.metrics.gates import Gate
from onnxfq.metrics.limits import Limits
from onnxfq.metrics.metric import Metric
from onnxfq.metrics.output_error import OutputAccuracy
from onnxfq.reports.measured import measured


def output(error: float | None, *, dtype: str = "float32", elements: int = 4, **figures: Any) -> OutputAccuracy:
    return OutputAccuracy("y", dtype, elements=elements, relative_mse=error, **figures)


def run(speedup: float) -> Latency:
    return Latency("run", 1.0, 1.0, 1.0, 1.0, speedup, 5)


def gates(
    outputs: list[OutputAccuracy], latencies: list[Latency], text: list[Metric] | None = None, **limits: str | float
) -> list[Gate]:
    return list(Limits.parse(limits).gates(measured(outputs, latencies, text or [])))


def test_no_limits_are_no_gates() -> None:
    assert gates([output(9.0)], []) == []


@pytest.mark.parametrize(("limit", "passed"), [(0.2, True), (0.3, True), (0.1, False)])
def test_the_largest_error_counts(limit: float, passed: bool) -> None:
    outputs = [output(0.2), output(0.1), output(None, dtype="int64"), output(None, elements=0)]
    assert gates(outputs, [], max_error=limit) == [Gate("max-error", limit, 0.2, passed)]


@pytest.mark.parametrize(
    ("outputs", "why"),
    [
        ([], "the models were not compared"),
        ([output(0.1), output(None, note="NaN in one")], "y: NaN in one"),
        ([output(None, dtype="int64")], "no output is floating-point"),
        ([output(None, elements=0)], "no output is floating-point"),
    ],
)
def test_an_error_without_a_figure_fails_and_says_why(outputs: list[OutputAccuracy], why: str) -> None:
    for (gate,) in (gates(outputs, [], max_error=0.0), gates(outputs, [], min_cosine=0.0)):
        assert (gate.measured, gate.passed, gate.note) == (None, False, why)


@pytest.mark.parametrize(("limit", "passed"), [(1.5, True), (1.6, False)])
def test_the_smallest_speedup_counts(limit: float, passed: bool) -> None:
    assert gates([], [run(2.0), run(1.5)], min_speedup=limit) == [Gate("min-speedup", limit, 1.5, passed)]


def test_a_speedup_without_a_figure_fails() -> None:
    (gate,) = gates([output(0.1)], [], min_speedup=0.0)
    assert gate == Gate("min-speedup", 0.0, None, False, note="models that are run piece by piece are not timed")


def test_the_largest_kl_and_the_smallest_cosine_count() -> None:
    outputs = [output(0.1, kl=0.3, cosine=0.99), output(0.1, cosine=0.9), output(0.1, kl=0.2, cosine=1.0)]
    assert [(g.measured, g.passed) for g in gates(outputs, [], max_kl=0.3, min_cosine=0.9)] == [
        (0.3, True),
        (0.9, True),
    ]
    assert [g.passed for g in gates(outputs, [], max_kl=0.29, min_cosine=0.91)] == [False, False]


def test_a_kl_of_no_logits_fails() -> None:
    (gate,) = gates([output(0.1, cosine=1.0)], [], max_kl=1e9)
    assert (gate.passed, gate.note) == (False, "no floating-point output is named logits or scores")


def test_the_perplexity_that_rises_most_counts() -> None:
    text = [Metric("perplexity", 51.0, baseline=50.0, difference=1.0),
            Metric("perplexity", 104.0, baseline=100.0, difference=4.0)]  # fmt: skip
    (gate,) = gates([output(0.1)], [], text, max_ppl_increase="3%")
    assert (gate.measured, gate.passed, gate.relative) == (0.04, False, True)
    (gate,) = gates([output(0.1)], [], text, max_ppl_increase=4)
    assert (gate.measured, gate.passed, gate.relative) == (4.0, True, False)
    (gate,) = gates([output(0.1)], [], max_ppl_increase="3%")
    assert (gate.passed, gate.note) == (False, "the perplexity was not measured: it needs text")


def test_gates_read_well() -> None:
    assert str(Gate("max-error", 0.01, 0.02, False)) == "max-error: 0.02, limit 0.01: failed"
    assert str(Gate("min-speedup", 2, None, False)) == "min-speedup: without a figure, limit 2: failed"
    assert str(Gate("max-kl", 2, None, False, note="NaN")) == "max-kl: without a figure (NaN), limit 2: failed"
    assert str(Gate("min-speedup", 2, 2.34567, True)) == "min-speedup: 2.346, limit 2: passed"
