"""Samples that run side by side: their order, how many there are at a time, and that this changes no bit."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from onnxfq.calibration.side_by_side import in_order, runs_at_once


@pytest.mark.parametrize("at_once", [1, 3])
def test_results_come_in_order_and_few_are_under_way(at_once: int) -> None:
    taken, last = list[int](), threading.Event()

    def items() -> Iterator[int]:
        for number in range(8):
            taken.append(number)
            yield number

    def work(number: int) -> int:
        if at_once > 1 and number == 0:
            assert last.wait(10), "the others go on meanwhile"
        if number == 2:
            last.set()
        return -number

    for done, result in enumerate(in_order(work, items(), at_once)):
        assert result == -done
        assert len(taken) <= done + at_once + 1


def test_what_fails_is_raised_in_its_turn() -> None:
    def work(number: int) -> int:
        if number == 2:
            raise ValueError("two")
        return number

    found = in_order(work, range(5), 2)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(found)


def test_short_samples_run_side_by_side_and_long_ones_share_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxfq.calibration.side_by_side.thread_count", lambda: 16)
    assert runs_at_once("cpu", None, 20) == 16
    assert runs_at_once("cpu", 4, 512) == 4
    assert runs_at_once("cpu", None, 512) == 1
    assert runs_at_once("cpu", 1, 20) == 1
    assert runs_at_once("cuda", None, 20) == 1
