"""Rows shared out among threads: each once, in as many threads as are allowed, and no thread outlives its work."""

from __future__ import annotations

import multiprocessing
import threading
import warnings
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from onnxfq.system import threads
from onnxfq.system.threads import limited_threads, spread, thread_count

Counts = npt.NDArray[np.int64]


@pytest.fixture(autouse=True)
def four_processors(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(threads, "processors", lambda: 4)
    threads._pool.cache_clear()
    yield
    threads._pool.cache_clear()


def count_up(begin: int, end: int, counts: Counts, step: int = 1) -> None:
    counts[begin:end] += step


@pytest.mark.parametrize("limit", [None, 1, 2, 4, 100])
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 7, 1000])
def test_every_row_comes_once(rows: int, limit: int | None) -> None:
    counts = np.zeros(rows, np.int64)
    with limited_threads(limit):
        spread(count_up, rows, counts, step=3)
    assert counts.tolist() == [3] * rows


def test_as_many_threads_as_allowed_work_at_once() -> None:
    met = threading.Barrier(3)

    def meet(begin: int, end: int) -> None:
        if begin == 0 or end == 12:
            met.wait(timeout=30)

    with limited_threads(2):
        helper = threading.Thread(target=met.wait, kwargs={"timeout": 30})
        helper.start()
        spread(meet, 12)  # its first and its last range wait for each other: one thread alone would not end
        helper.join()


def test_limits_nest_and_hold_for_their_thread() -> None:
    elsewhere: list[int] = []
    with limited_threads(3):
        with limited_threads(None):
            assert thread_count() == 3
        with limited_threads(1):
            other = threading.Thread(target=lambda: elsewhere.append(thread_count()))
            other.start()
            other.join()
            assert thread_count() == 1
        assert thread_count() == 3
    assert (thread_count(), elsewhere) == (4, [4])


def test_what_fails_in_any_thread_is_raised_after_all_have_ended() -> None:
    working = threading.Semaphore(0)

    def fail(begin: int, end: int) -> None:
        working.release()
        raise ValueError("this row")

    with pytest.raises(ValueError, match="this row"):
        spread(fail, 100)
    counts = np.zeros(100, np.int64)
    spread(count_up, 100, counts)
    assert counts.sum() == 100


def count_in_a_child(answers: multiprocessing.Queue[int]) -> None:
    counts = np.zeros(100, np.int64)
    spread(count_up, 100, counts)
    answers.put(int(counts.sum()))


def test_a_forked_child_has_threads_of_its_own() -> None:
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("no fork here")
    spread(count_up, 100, np.zeros(100, np.int64))  # the parent's threads are started
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[int] = context.Queue()
    child = context.Process(target=count_in_a_child, args=(answers,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking while threads run, which this is about
        child.start()
    assert answers.get(timeout=60) == 100
    child.join(timeout=60)
    assert child.exitcode == 0
