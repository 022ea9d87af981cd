"""Gates: what limits they accept, what they read, and when they hold or fail; a missing metric fails."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from onnxfq import GateError, UsageError
from onnxfq.benchmarking.latency import Latency
from onnxfq.metrics.gates import Gate, Gated, Gates, Limit
from onnxfq.metrics.metric import Metric
from onnxfq.metrics.output_accuracy import OutputAccuracy
from onnxfq.reports.measured import measured


def output(error: float | None, *, dtype: str = "float32", elements: int = 4, **errors: Any) -> OutputAccuracy:
    return OutputAccuracy("y", dtype, elements=elements, relative_mse=error, **errors)


PERPLEXITY = Metric("perplexity", 51.0, baseline=50.0, difference=1.0)


def score(name: str, value: float | None, **given: float | str) -> Metric:
    return Metric(name, value, higher_is_better=True, **given)  # type: ignore[arg-type]


def run(speedup: float, low: float | None = None, high: float | None = None) -> Latency:
    return Latency("run", 1.0, 1.0, 1.0, 1.0, speedup, 5, low, high)


def gates(
    outputs: list[OutputAccuracy], latencies: list[Latency], text: list[Metric] | None = None, **limits: str | float
) -> list[Gate]:
    return list(Gates.parse(limits).check(measured(outputs, latencies, text or [])))


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
        ([output(None, elements=0)], "no floating-point output has elements"),
        ([replace(output(0.0), reached=False)], "no quantized weight reaches a floating-point output"),
    ],
)
def test_an_error_without_a_figure_fails_and_says_why(outputs: list[OutputAccuracy], why: str) -> None:
    for (gate,) in (gates(outputs, [], max_error=0.0), gates(outputs, [], min_cosine=0.0)):
        assert (gate.measured, gate.passed, gate.note) == (None, False, why)


@pytest.mark.parametrize(("limit", "passed"), [(1.5, True), (1.6, False)])
def test_the_smallest_speedup_counts(limit: float, passed: bool) -> None:
    assert gates([], [run(2.0), run(1.5)], min_speedup=limit) == [
        Gate("min-speedup", limit, 1.5, passed, note="of run")
    ]


@pytest.mark.parametrize(("low", "high", "limit", "text"), [
    (0.97, 1.05, 1.0, "min-speedup: 0.97 (lower bound of 0.97 to 1.05, run), limit 1: failed"),
    (1.1, 1.3, 1.1, "min-speedup: 1.1 (lower bound of 1.10 to 1.30, run), limit 1.1: passed"),
    (0.5, 3.0, 1.0, "min-speedup: 0.5 (lower bound of 0.50 to 3.00, run; the machine was busy), limit 1: failed"),
    (2.0, 9.0, 1.5, "min-speedup: 2 (lower bound of 2.00 to 9.00, run; the machine was busy), limit 1.5: passed"),
])  # fmt: skip
def test_the_lower_bound_of_the_interval_counts(low: float, high: float, limit: float, text: str) -> None:
    (gate,) = gates([], [run(20.0, 19.0, 21.0), run(2.2, low, high)], min_speedup=limit)
    assert str(gate) == text


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


# Limits


@pytest.mark.parametrize(
    ("given", "limit"),
    [("1%", Limit(0.01, True)), ("1.5 %", Limit(0.015, True)), ("0.5", Limit(0.5)), (2, Limit(2.0)), (None, None)],
)
def test_limits_are_numbers_or_percentages(given: str | float | None, limit: Limit | None) -> None:
    found = Gates.parse({"max_drop": given}).max_drop
    assert found == limit or (found is not None and limit is not None and found.value == pytest.approx(limit.value))


@pytest.mark.parametrize("given", ["-1", "nan", "inf", "much", "", "%", "-1%", "1%%", float("nan")])
def test_other_limits_are_refused(given: str | float) -> None:
    with pytest.raises(UsageError, match=r"`max_drop` must be a number of 0 or more, or a percentage such as 1%"):
        Gates.parse({"max_drop": given})


def test_a_percentage_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"`max_kl` must be a number of 0 or more \(got 1%\)"):
        Gates.parse({"max_kl": "1%"})


@pytest.mark.parametrize(
    ("limit", "measured", "passed"),
    [
        (Limit(1.0), 1.0, True),
        (Limit(0.9), 1.0, False),
        (Limit(0.02, True), 0.02, True),
        (Limit(0.01, True), 0.02, False),
    ],
)
def test_perplexity_may_rise_so_far(limit: Limit, measured: float, passed: bool) -> None:
    found = list(Gates(max_ppl_increase=limit).check([PERPLEXITY]))
    assert found == [Gate("max-ppl-increase", limit.value, measured, passed, relative=limit.relative)]


def test_a_better_model_passes_every_gate_on_differences() -> None:
    better = [Metric("perplexity", 49.0, baseline=50.0, difference=-1.0),
              score("accuracy", 0.6, baseline=0.5, difference=0.1)]  # fmt: skip
    gates = Gates(max_ppl_increase=Limit(0.0), max_drop=Limit(0.0, True))
    assert [(gate.measured, gate.passed) for gate in gates.check(better)] == [
        (-1.0, True),
        (pytest.approx(-0.2), True),
    ]


def test_the_score_that_falls_most_counts() -> None:
    scores = [
        score("bleu", 30.0, baseline=30.1, difference=-0.1),
        score("chrf", 50.0, baseline=50.5, difference=-0.5),
    ]
    others = [PERPLEXITY, Metric("loss", 9.0, baseline=1.0, difference=8.0, higher_is_better=False),
              Metric("cosine", 0.1, baseline=1.0, difference=-0.9)]  # fmt: skip
    (gate,) = Gates(max_drop=Limit(0.3)).check([*scores, *others])
    assert (gate.measured, gate.passed) == (0.5, False)


@pytest.mark.parametrize(("least", "passed"), [(0.9, True), (0.95, False)])
def test_the_smallest_cosine_counts(least: float, passed: bool) -> None:
    (gate,) = Gates(min_cosine=Limit(least)).check([Metric("cosine", 0.92)])
    assert (gate.measured, gate.passed) == (0.92, passed)


@pytest.mark.parametrize("option", ["max_ppl_increase", "max_kl", "min_cosine", "max_error", "max_drop"])
def test_a_metric_without_a_value_fails(option: str) -> None:
    names = ("perplexity", "kl", "cosine", "relative_mse")
    metrics = [*(Metric(name, None, note="NaN") for name in names), score("accuracy", None, note="NaN")]
    for given, note in ((metrics, "NaN"), ([], "it was not measured")):
        (gate,) = Gates(**{option: Limit(0.0)}).check(given)
        assert gate.note == note
        assert (gate.measured, gate.passed) == (None, False)


def test_one_score_without_a_value_fails_all() -> None:
    scores = [score("bleu", 30.0, baseline=30.1, difference=-0.1), score("chrf", None)]
    (gate,) = Gates(max_drop=Limit(9.0)).check(scores)
    assert (gate.measured, gate.passed) == (None, False)


def test_limits_on_what_is_not_measured_are_refused() -> None:
    gates = Gates(max_kl=Limit(0.1), max_drop=Limit(0.1), min_cosine=Limit(0.1))
    gates.refuse_unmeasured([Metric("kl", None), score("accuracy", None), Metric("cosine", None)], "x")
    with pytest.raises(UsageError, match=r"nothing to limit for `max_kl` and `min_cosine`: the task x measures bleu"):
        gates.refuse_unmeasured([score("bleu", None)], "x")
    with pytest.raises(UsageError, match=r"nothing to limit for `max_kl` and `min_cosine` and `max_drop`: .* nothing"):
        gates.refuse_unmeasured([], "x")


def test_relative_gates_read_in_percent() -> None:
    gate = Gate("max-ppl-increase", 0.01, 0.02577, False, relative=True)
    assert str(gate) == "max-ppl-increase: 2.577 %, limit 1 %: failed"
    assert str(Gate("max-drop", 0.01, None, False, relative=True)) == "max-drop: without a figure, limit 1 %: failed"


# What has gates


class Result(Gated):
    def __init__(self, *gates: Gate) -> None:
        self.gates = gates

    def _gated(self) -> str:
        return "m.onnx"


def test_a_result_passes_where_all_its_gates_do() -> None:
    good, bad = Gate("max-kl", 0.1, 0.05, True), Gate("max-error", 0.01, 0.02, False)
    for result in (Result(), Result(good)):
        assert result.passed
        assert result.require() is result
    assert not Result(good, bad).passed
    with pytest.raises(GateError, match=r"^m\.onnx fails 1 gate: max-error: 0\.02, limit 0\.01: failed\.$"):
        Result(good, bad).require()
