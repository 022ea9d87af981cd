"""Where marks stand in a chart."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from onnxfq.reports.axes import Axis, linear_axis, log_axis, order_axis, range_axis
from onnxfq.reports.charts import MOST_MARKS, Chart, bits_chart, change_chart, error_chart, range_chart
from onnxfq.reports.layers import layers_of, worst_of
from onnxfq.reports.report import Report
from support.reports import layer, mixed, run

FINITE = st.floats(allow_nan=False, allow_infinity=False)
POSITIVE = st.floats(min_value=0.0, allow_nan=False, allow_infinity=False)


def check(axis: Axis, values: list[float]) -> None:
    """Values keep their order and stand inside; so do the ticks, which are few."""
    places = [axis.place(value) for value in sorted(values)]
    assert all(0.0 <= place <= 1.0 for place in places)
    assert all(a <= b for a, b in pairwise(places))
    ticks = axis.ticks
    assert len(ticks) <= 12
    assert all(0.0 <= tick.at <= 1.0 for tick in ticks)
    assert all(a.at < b.at for a, b in pairwise(ticks))


@given(st.lists(POSITIVE, max_size=8))
def test_logarithmic_axes(values: list[float]) -> None:
    check(log_axis(values), values)


@given(st.lists(FINITE, max_size=8))
def test_linear_axes(values: list[float]) -> None:
    check(linear_axis(values), values)
    check(linear_axis(values, zero=True, margin=1.0), values)


@given(st.lists(st.tuples(FINITE, FINITE), max_size=8))
@example([(0.0, 1.08e55), (0.0, 1.2e-253), (0.0, 1.2e-253)])
def test_axes_of_ranges(ranges: list[tuple[float, float]]) -> None:
    check(range_axis(ranges), [value for pair in ranges for value in pair])


@pytest.mark.parametrize("count", [1, 2, 7, 25, 99, 2000])
def test_axes_of_layers(count: int) -> None:
    axis = order_axis(count)
    check(axis, list(map(float, range(1, count + 1))))
    assert axis.ticks[0].text == "1"


def test_ticks_are_round_numbers() -> None:
    assert [t.text for t in log_axis([6e-5, 1.9e-3]).ticks] == ["5e-05", "0.0001", "0.0002", "0.0005", "0.001", "0.002"]
    assert [t.text for t in log_axis([0.0, 1e-6, 1.0]).ticks][:2] == ["0", "1e-06"]
    assert [t.text for t in linear_axis([4.1, 5.2]).ticks] == ["4", "4.5", "5", "5.5"]


def test_an_outlier_does_not_hide_the_others() -> None:
    ranges = [(-1.0, 1.0)] * 10 + [(-5.0, 4000.0)]
    axis = range_axis(ranges)
    assert axis.place(1.0) - axis.place(-1.0) > 0.1
    assert [t.text for t in axis.ticks][-1] == "1000"


def unlike(count: int) -> Report:
    """A run whose layers differ in their bits."""
    return run(targets=tuple(layer(i, bytes=84_000 + 16_000 * (i % 2)) for i in range(count)))


def charts(count: int) -> list[Chart]:
    layers = layers_of(unlike(count))
    worst = worst_of(layers)
    ranges = range_chart("weights", "Weights", layers, lambda layer: layer.target.weights)
    return [c for c in (error_chart(layers, worst), bits_chart(layers, worst), ranges) if c]


@pytest.mark.parametrize("count", [2, 5, 300, 301, 2000])
def test_there_are_never_too_many_marks_and_the_worst_is_among_them(count: int) -> None:
    assert len(charts(count)) == 3
    for chart in charts(count):
        assert 0 < len(chart.marks) <= MOST_MARKS
        assert all(0.0 <= v <= 1.0 for mark in chart.marks for v in (mark.x, mark.low, mark.high))
    errors = charts(count)[0]
    top = max(errors.marks, key=lambda mark: mark.high)
    assert top.series == "worst"
    assert worst_of(layers_of(run(count)))[0].name in top.text


def test_what_is_the_same_of_all_layers_is_not_drawn() -> None:
    assert charts(1) == charts(0) == []
    assert [chart.name for chart in charts(2)] == ["errors", "bits", "weights"]
    layers = layers_of(run(5))
    assert bits_chart(layers, worst_of(layers)) is None, "all have the same bits"
    same = layers_of(run(targets=tuple(layer(i, output_error=0.1, weights=(-1.0, 1.0)) for i in range(5))))
    assert error_chart(same, worst_of(same)) is None
    assert range_chart("weights", "Weights", same, lambda layer: layer.target.weights) is None
    assert change_chart(["a", "b"], [[1.0], [1.0]]) is None


def test_no_dot_hides_another() -> None:
    layers = layers_of(unlike(60))
    chart = bits_chart(layers, worst_of(layers))
    assert chart
    places = [(round(mark.x, 4), round(mark.high, 4)) for mark in chart.marks]
    assert len(set(places)) == 60


def test_pins_do_not_cover_each_other_and_start_with_the_worst() -> None:
    for count in (3, 30, 2000):
        pins = charts(count)[0].pins
        assert pins[0].text == "1"
        assert all(abs(a.x - b.x) > 0.04 or abs(a.y - b.y) > 0.1 for a in pins for b in pins if a is not b)


def test_layers_without_data_look_different_and_are_not_called_worst() -> None:
    layers = layers_of(mixed())
    chart = error_chart(layers, worst_of(layers))
    assert chart
    assert {series for series, _ in chart.legend} == {"measured", "weights"}
    assert [mark.series for mark in chart.marks][3] == "weights"
    assert all(layer.measured for layer in worst_of(layers))


def test_bits_of_a_shared_weight_are_those_of_its_owner() -> None:
    report = run(targets=(layer(0), layer(1, shares=layer(0).name, bytes=0), layer(2, shares="nowhere", bytes=0)))
    assert [found.bits for found in layers_of(report)] == [pytest.approx(8 * 84_000 / (256 * 512))] * 2 + [0.0]


def test_changes_are_drawn_run_by_run() -> None:
    chart = change_chart(["a", "b"], [[0.5, 2.0], [None, 1.0]])
    assert chart
    assert [mark.series for mark in chart.marks] == ["run1", "run2", "run2"]
    assert chart.marks[0].high < chart.marks[2].high < chart.marks[1].high
    assert change_chart(["a"], [[None]]) is None
    many = change_chart([f"n{i}" for i in range(2000)], [[9.0 if i == 777 else 1.1] for i in range(2000)])
    assert many
    assert len(many.marks) <= MOST_MARKS
    assert [m.text for m in many.marks if "n777" in m.text] == ["n777: 9"]
