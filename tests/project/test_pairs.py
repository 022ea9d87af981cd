"""The tests' own way to choose few combinations."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from support.pairs import pairs


@pytest.mark.parametrize("sizes", [(2, 2), (3, 5, 2), (3, 5, 2, 3), (7, 1, 3)], ids=str)
def test_every_two_values_meet_in_few_rows(sizes: tuple[int, ...]) -> None:
    axes = [[f"{axis}{value}" for value in range(size)] for axis, size in enumerate(sizes)]
    chosen = pairs(*axes)
    assert chosen == pairs(*axes)
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= set(product(*axes))
    for (i, one), (j, other) in combinations(enumerate(axes), 2):
        assert {(row[i], row[j]) for row in chosen} == set(product(one, other))
    if len(sizes) > 2:
        largest, second, *_ = sorted(sizes, reverse=True)
        assert len(chosen) <= 1.5 * largest * second
