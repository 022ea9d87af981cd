"""Metrics: means over samples, their errors, and the worst over outputs."""

from __future__ import annotations

import pytest

from onnxfq.metrics.metric import Metric, mean_metric
from onnxfq.metrics.output_accuracy import OutputAccuracy
from onnxfq.metrics.worst_outputs import worst_metrics


def test_a_mean_has_an_error_from_two_samples_on() -> None:
    assert mean_metric(Metric("x", None), [1.0]) == Metric("x", 1.0, samples=1)
    assert mean_metric(Metric("x", None), [1.0, 3.0]) == Metric("x", 2.0, 1.0, samples=2)
    assert mean_metric(Metric("x", None), []) == Metric("x", None, samples=0)


def test_paired_errors_are_those_of_the_differences() -> None:
    metric = mean_metric(Metric("x", None), [1.1, 5.2, 9.3], [1.0, 5.0, 9.0])
    assert metric.difference == pytest.approx(0.2)
    assert metric.difference_error == pytest.approx(0.1 / 3**0.5)
    assert metric.relative_difference == pytest.approx(0.04)
    assert metric.standard_error is not None
    assert metric.standard_error > 2


def test_nothing_is_a_fraction_of_zero() -> None:
    assert Metric("x", 1.0, baseline=0.0, difference=1.0).relative_difference is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_counted(bad: float) -> None:
    assert mean_metric(Metric("x", None), [1.0, bad]).note == "1 of 2 samples gave NaN or infinity"
    metric = mean_metric(Metric("x", None), [1.0, 1.0], [bad, bad])
    assert metric.note == "2 of the baseline's 2 samples gave NaN or infinity"
    assert (metric.value, metric.baseline, metric.difference, metric.difference_error) == (1.0, None, None, None)


def test_the_worst_output_counts_and_is_named() -> None:
    outputs = [
        OutputAccuracy("a", "float32", elements=4, relative_mse=0.1, cosine=0.99, kl=0.5, top1=1.0),
        OutputAccuracy("b", "float16", elements=4, relative_mse=0.2, cosine=0.98),
        OutputAccuracy("c", "int64", elements=4, equal=0.0),
        OutputAccuracy("d", "float32"),
    ]
    metrics = {metric.name: (metric.value, metric.note) for metric in worst_metrics(outputs, 3)}
    assert metrics == {
        "relative_mse": (0.2, "of b"), "cosine": (0.98, "of b"), "kl": (0.5, "of a"), "top1": (1.0, "of a")
    }  # fmt: skip
    broken = OutputAccuracy("e", "float32", elements=4, note="NaN in only one")
    assert {metric.value for metric in worst_metrics([*outputs, broken], 3)} == {None}
    assert worst_metrics([*outputs, broken], 3)[0].note == "e: NaN in only one"
    assert worst_metrics([outputs[2]], 3) == []


def test_a_measured_metric_is_still_better_when_higher() -> None:
    accuracy = Metric("accuracy", None, higher_is_better=True)
    assert mean_metric(accuracy, [1.0, 0.0], [1.0, 1.0]).higher_is_better is True
