"""What intervals of speed-ups say, and that a ratio is the quotient of the times beside it, as they are printed."""

from __future__ import annotations

import re

import numpy as np
import pytest

from onnxfq.benchmarking.latency import Latency
from onnxfq.benchmarking.measurements import Case, Speedup, Timing
from onnxfq.benchmarking.speed_verdict import judge_speed, speed_text, time_texts

WORDS = [
    (1.2, 1.3, "faster"), (0.7, 0.8, "slower"), (0.9, 1.1, "about the same"), (1.01, 1.02, "about the same"),
    (0.97, 0.99, "about the same"), (1.049, 1.4, "about the same"), (0.7, 0.96, "about the same"),
    (0.4, 5.6, "unknown"), (1.2, 1.9, "unknown"), (0.3, 0.5, "unknown"), (0.0, 0.0, "slower"), (0.0, 1.0, "unknown"),
]  # fmt: skip


@pytest.mark.parametrize(("low", "high", "word"), WORDS)
def test_an_interval_has_its_word(low: float, high: float, word: str) -> None:
    assert judge_speed(low, high) == word
    found = Latency("run", 1.0, 1.0, 1.0, 1.0, (low + high) / 2, 9, low, high)
    assert (found.verdict, Speedup("old", 1.0, low, high, precise=False).verdict) == (word, word)


@pytest.mark.parametrize(("ratio", "low", "high", "text"), [
    (1.3249, 1.3, 1.35, "1.32x as fast"), (1.3249, 1.1, 1.5, "1.3x as fast"),
    (1.3249, 1.3245, 1.3252, "1.325x as fast"),
    (12.4, 10.0, 14.0, "12x as fast"), (0.83, 0.82, 0.84, "0.83x as fast"), (1.0, 0.99, 1.01, "about the same"),
    (3.0, 0.43, 7.86, "unknown: the machine is busy"), (2.345, None, None, "2.35x as fast"),
])  # fmt: skip
def test_a_ratio_has_the_digits_that_its_interval_deserves(
    ratio: float, low: float | None, high: float | None, text: str
) -> None:
    assert speed_text(ratio, low, high) == text


def test_the_ratio_shown_is_the_quotient_of_the_times_shown() -> None:
    rng = np.random.default_rng(0)
    shown = 0
    for _ in range(2000):
        candidate, ratio, spread = rng.lognormal(1, 3), rng.lognormal(0, 1), 1 + rng.lognormal(-3, 1.5)
        low, high = ratio / spread, ratio * spread
        found = Latency("run", ratio * candidate, 1.0, candidate, 1.0, ratio, 9, low, high)
        told = re.fullmatch(r"([0-9.]+)x as fast", found.speedup_text)
        old, new = map(float, found.time_texts)
        assert old == pytest.approx(ratio * candidate, rel=0.006)
        if told:
            shown += 1
            places = len(told[1].partition(".")[2])
            assert f"{old / new:.{places}f}" == told[1]
    assert shown > 500


def test_all_ratios_of_a_case_are_quotients_of_the_times_shown() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        times = rng.lognormal(0, 2, 4)
        ratios = [time / times[0] for time in times[1:]]
        speedups = tuple(Speedup("old", r, r / 1.002, r * 1.002, precise=True) for r in ratios)
        case = Case("decode", 1, 16, 9, tuple(Timing("m", time, time, 9) for time in times), speedups)
        first, *others = map(float, case.time_texts)
        for other, speedup in zip(others, speedups, strict=True):
            if told := re.match(r"([0-9.]+)x \[", speedup.text):
                assert f"{other / first:.{len(told[1].partition('.')[2])}f}" == told[1]


def test_a_benchmark_s_table_has_short_words() -> None:
    found = [
        Speedup("old", 1.3249, low, high, precise=False).text for low, high in ((1.3, 1.35), (0.97, 1.02), (0.5, 4))
    ]
    assert found == ["1.32x [1.30, 1.35]", "about the same [0.97, 1.02]", "unknown [0.50, 4.00]"]


def test_times_that_are_in_no_such_ratio_have_three_digits() -> None:
    assert time_texts(1.0, [], []) == ["1.00"]
    assert time_texts(0.0001234, [1234.5], [None]) == ["0.000123", "1234"]
