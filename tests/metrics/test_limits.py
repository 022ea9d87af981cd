"""Limits on figures: what they read, what they accept, and when they fail."""

from __future__ import annotations

import pytest

from onnxfq import UsageError
from onnxfq.metrics.gates import Gate
from onnxfq.metrics.limits import Limit, Limits, parse_limit
from onnxfq.metrics.metric import Metric, mean_metric
from onnxfq.metrics.output_error import OutputAccuracy, worst_metrics

PERPLEXITY = Metric("perplexity", 51.0, baseline=50.0, difference=1.0)


@pytest.mark.parametrize(
    ("given", "limit"),
    [("1%", Limit(0.01, True)), ("1.5 %", Limit(0.015, True)), ("0.5", Limit(0.5)), (2, Limit(2.0)), (None, None)],
)
def test_limits_are_numbers_or_percentages(given: str | float | None, limit: Limit | None) -> None:
    found = parse_limit(given, "max_drop", percent=True)
    assert found == limit or (found is not None and limit is not None and found.value == pytest.approx(limit.value))


@pytest.mark.parametrize("given", ["-1", "nan", "inf", "much", "", "%", "-1%", "1%%", float("nan")])
def test_other_limits_are_refused(given: str | float) -> None:
    with pytest.raises(UsageError, match=r"`max_drop` must be a number of 0 or more, or a percentage such as 1%"):
        parse_limit(given, "max_drop", percent=True)


def test_a_percentage_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"`max_kl` must be a number of 0 or more \(got 1%\)"):
        parse_limit("1%", "max_kl", percent=False)


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
    gates = list(Limits(max_ppl_increase=limit).gates([PERPLEXITY]))
    assert gates == [Gate("max-ppl-increase", limit.value, measured, passed, relative=limit.relative)]


def test_a_better_model_passes_every_gate_on_differences() -> None:
    better = [Metric("perplexity", 49.0, baseline=50.0, difference=-1.0),
              Metric("accuracy", 0.6, baseline=0.5, difference=0.1)]  # fmt: skip
    limits = Limits(max_ppl_increase=Limit(0.0), max_drop=Limit(0.0, True))
    assert [(gate.measured, gate.passed) for gate in limits.gates(better)] == [
        (-1.0, True),
        (pytest.approx(-0.2), True),
    ]


def test_the_score_that_falls_most_counts() -> None:
    scores = [
        Metric("bleu", 30.0, baseline=30.1, difference=-0.1),
        Metric("chrf", 50.0, baseline=50.5, difference=-0.5),
    ]
    (gate,) = Limits(max_drop=Limit(0.3)).gates([*scores, PERPLEXITY])
    assert (gate.measured, gate.passed) == (0.5, False)


@pytest.mark.parametrize(("least", "passed"), [(0.9, True), (0.95, False)])
def test_the_smallest_cosine_counts(least: float, passed: bool) -> None:
    (gate,) = Limits(min_cosine=Limit(least)).gates([Metric("cosine", 0.92)])
    assert (gate.measured, gate.passed) == (0.92, passed)


@pytest.mark.parametrize("option", ["max_ppl_increase", "max_kl", "min_cosine", "max_error", "max_drop"])
def test_a_figure_without_a_value_fails(option: str) -> None:
    names = ("perplexity", "kl", "cosine", "relative_mse", "accuracy")
    figures = [Metric(name, None, note="NaN") for name in names]
    for given in (figures, []):
        (gate,) = Limits(**{option: Limit(0.0)}).gates(given)
        assert (gate.measured, gate.passed) == (None, False)


def test_one_score_without_a_value_fails_all() -> None:
    scores = [Metric("bleu", 30.0, baseline=30.1, difference=-0.1), Metric("chrf", None)]
    (gate,) = Limits(max_drop=Limit(9.0)).gates(scores)
    assert (gate.measured, gate.passed) == (None, False)


def test_limits_on_what_is_not_measured_are_refused() -> None:
    limits = Limits(max_kl=Limit(0.1), max_drop=Limit(0.1), min_cosine=Limit(0.1))
    limits.refuse_unmeasured(["kl", "accuracy", "cosine"], "x")
    with pytest.raises(UsageError, match=r"nothing to limit for `max_kl` and `min_cosine`: the task x measures bleu"):
        limits.refuse_unmeasured(["bleu"], "x")


def test_relative_gates_read_in_percent() -> None:
    gate = Gate("max-ppl-increase", 0.01, 0.02577, False, relative=True)
    assert str(gate) == "max-ppl-increase: 2.577 %, limit 1 %: failed"
    assert str(Gate("max-drop", 0.01, None, False, relative=True)) == "max-drop: without a figure, limit 1 %: failed"


# Figures


def test_a_mean_has_an_error_from_two_samples_on() -> None:
    assert mean_metric("x", [1.0]) == Metric("x", 1.0, samples=1)
    assert mean_metric("x", [1.0, 3.0]) == Metric("x", 2.0, 1.0, samples=2)
    assert mean_metric("x", []) == Metric("x", None, samples=0)


def test_paired_errors_are_those_of_the_differences() -> None:
    figure = mean_metric("x", [1.1, 5.2, 9.3], [1.0, 5.0, 9.0])
    assert figure.difference == pytest.approx(0.2)
    assert figure.difference_error == pytest.approx(0.1 / 3**0.5)
    assert figure.relative_difference == pytest.approx(0.04)
    assert figure.standard_error is not None
    assert figure.standard_error > 2


def test_nothing_is_a_fraction_of_zero() -> None:
    assert Metric("x", 1.0, baseline=0.0, difference=1.0).relative_difference is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_counted(bad: float) -> None:
    assert mean_metric("x", [1.0, bad]).note == "1 of 2 samples gave NaN or infinity"
    figure = mean_metric("x", [1.0, 1.0], [bad, bad])
    assert figure.note == "2 of the baseline's 2 samples gave NaN or infinity"
    assert (figure.value, figure.baseline, figure.difference, figure.difference_error) == (1.0, None, None, None)


def test_the_worst_output_counts_and_is_named() -> None:
    outputs = [
        OutputAccuracy("a", "float32", elements=4, relative_mse=0.1, cosine=0.99, kl=0.5, top1=1.0),
        OutputAccuracy("b", "float16", elements=4, relative_mse=0.2, cosine=0.98),
        OutputAccuracy("c", "int64", elements=4, equal=0.0),
        OutputAccuracy("d", "float32"),
    ]
    figures = {figure.name: (figure.value, figure.note) for figure in worst_metrics(outputs, 3)}
    assert figures == {
        "relative_mse": (0.2, "of b"), "cosine": (0.98, "of b"), "kl": (0.5, "of a"), "top1": (1.0, "of a")
    }  # fmt: skip
    broken = OutputAccuracy("e", "float32", elements=4, note="NaN in only one")
    assert {figure.value for figure in worst_metrics([*outputs, broken], 3)} == {None}
    assert worst_metrics([*outputs, broken], 3)[0].note == "e: NaN in only one"
    assert worst_metrics([outputs[2]], 3) == []
