"""The knapsack of a mix, and costs as they can be relied on."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxfq.quantization.mix_knapsack import choose, monotone

parts = st.lists(
    st.dictionaries(st.integers(0, 3), st.tuples(st.floats(0, 1), st.integers(1, 30)), min_size=1),
    min_size=1,
    max_size=5,
)


@given(parts, st.integers(1, 150))
@settings(max_examples=150)
def test_the_choice_is_the_best_of_all_that_fit(found: list[dict[int, tuple[float, int]]], room: int) -> None:
    costs = [{number: cost for number, (cost, _) in part.items()} for part in found]
    sizes = [{number: size for number, (_, size) in part.items()} for part in found]
    fitting = [
        sum(cost[n] for cost, n in zip(costs, numbers, strict=True))
        for numbers in product(*sizes)
        if sum(size[n] for size, n in zip(sizes, numbers, strict=True)) <= room
    ]
    chosen = choose(costs, sizes, room)
    assert (chosen is None) == (not fitting)
    if chosen is not None:
        assert sum(size[n] for size, n in zip(sizes, chosen, strict=True)) <= room
        assert sum(cost[n] for cost, n in zip(costs, chosen, strict=True)) == pytest.approx(min(fitting), abs=1e-12)


@given(parts, st.integers(0, 10**6))
@settings(max_examples=50)
def test_large_sizes_are_kept_too(found: list[dict[int, tuple[float, int]]], room: int) -> None:
    costs = [{number: cost for number, (cost, _) in part.items()} for part in found]
    sizes = [{number: 7919 * size for number, (_, size) in part.items()} for part in found]
    chosen = choose(costs, sizes, room)
    if chosen is not None:
        assert sum(size[n] for size, n in zip(sizes, chosen, strict=True)) <= room


def test_noise_moves_nothing() -> None:
    sizes = {0: 200, 1: 150, 2: 100, 3: 50, 4: 40}
    costs = monotone({0: 0.0, 1: -0.1, 2: 0.3, 3: 0.2, 4: 0.5}, sizes)
    assert costs == {0: 0.0, 1: 0.0, 2: 0.3, 3: 0.3, 4: 0.5}
