"""Gates hold or fail; a missing figure fails."""

from __future__ import annotations

import pytest

from onnxfq.evaluate import Gate, Latency, OutputAccuracy, check_gates


def output(error: float | None, *, dtype: str = "float32", elements: int = 4) -> OutputAccuracy:
    return OutputAccuracy("y", dtype, elements=elements, relative_mse=error)


def run(speedup: float) -> Latency:
    return Latency("run", 1.0, 1.0, 1.0, 1.0, speedup, 5)


def test_no_limits_are_no_gates() -> None:
    assert check_gates(max_error=None, min_speedup=None, outputs=[output(9.0)], latencies=[]) == []


@pytest.mark.parametrize(("limit", "passed"), [(0.2, True), (0.3, True), (0.1, False)])
def test_the_largest_error_counts(limit: float, passed: bool) -> None:
    outputs = [output(0.2), output(0.1), output(None, dtype="int64"), output(None, elements=0)]
    gates = check_gates(max_error=limit, min_speedup=None, outputs=outputs, latencies=[])
    assert gates == [Gate("max-error", limit, 0.2, passed)]


@pytest.mark.parametrize(
    "outputs", [[], [output(0.1), output(None)], [output(None, dtype="int64")], [output(None, elements=0)]]
)
def test_an_error_without_a_figure_fails(outputs: list[OutputAccuracy]) -> None:
    gates = check_gates(max_error=1e9, min_speedup=None, outputs=outputs, latencies=[])
    assert gates == [Gate("max-error", 1e9, None, False)]


@pytest.mark.parametrize(("limit", "passed"), [(1.5, True), (1.6, False)])
def test_the_smallest_speedup_counts(limit: float, passed: bool) -> None:
    gates = check_gates(max_error=None, min_speedup=limit, outputs=[], latencies=[run(2.0), run(1.5)])
    assert gates == [Gate("min-speedup", limit, 1.5, passed)]


def test_a_speedup_without_a_figure_fails() -> None:
    gates = check_gates(max_error=None, min_speedup=0.0, outputs=[], latencies=[])
    assert gates == [Gate("min-speedup", 0.0, None, False)]


def test_gates_read_well() -> None:
    assert str(Gate("max-error", 0.01, 0.02, False)) == "max-error: 0.02, limit 0.01: failed"
    assert str(Gate("min-speedup", 2, None, False)) == "min-speedup: no figure, limit 2: failed"
    assert str(Gate("min-speedup", 2, 2.34567, True)) == "min-speedup: 2.346, limit 2: passed"
