"""Which form each part of a mix takes: the smallest sum of measured errors within so many bytes.

A multiple-choice knapsack, solved by dynamic programming over bytes in steps. Source: H. Kellerer, U. Pferschy,
D. Pisinger, "Knapsack Problems", 2004, section 11.5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

_STEPS = 1 << 16  # of bytes


def choose(costs: Sequence[Mapping[int, float]], nbytes: Sequence[Mapping[int, int]], room: int) -> list[int] | None:
    """The number of a form for each part.

    Args:
        costs: of each part in each form.
        nbytes: the same, in bytes.
        room: for all of them together.

    Returns:
        The forms; None where not even the smallest ones fit.
    """
    least = [min(sizes.values()) for sizes in nbytes]
    spare = room - sum(least)
    if spare < 0:
        return None
    unit = max(1, -(-spare // _STEPS))
    width = spare // unit + 1
    best, taken = np.zeros(width), []
    for cost, sizes, smallest in zip(costs, nbytes, least, strict=True):
        total, chosen = np.full(width, np.inf), np.zeros(width, np.int8)
        for number in sorted(sizes, key=lambda n: sizes[n]):
            more = -(-(sizes[number] - smallest) // unit)  # rounded up: what is chosen fits
            if more < width:
                found = np.full(width, np.inf)
                found[more:] = best[: width - more] + cost[number]
                better = found < total
                total[better], chosen[better] = found[better], number
        best = total
        taken.append(chosen)
    return _followed(taken, nbytes, least, unit, width)


def _followed(
    taken: Sequence[np.ndarray[tuple[int], np.dtype[np.int8]]],
    nbytes: Sequence[Mapping[int, int]],
    least: Sequence[int],
    unit: int,
    width: int,
) -> list[int]:
    """What was chosen, from the last part to the first."""
    at, found = width - 1, []
    for chosen, sizes, smallest in zip(reversed(taken), reversed(nbytes), reversed(least), strict=True):
        number = int(chosen[at])
        found.append(number)
        at -= -(-(sizes[number] - smallest) // unit)
    return found[::-1]


def monotone(cost: Mapping[int, float], sizes: Mapping[int, int]) -> dict[int, float]:
    """Costs as they can be relied on: fewer bytes cost no less than more of them.

    Where they were measured otherwise, that is noise, or luck which will not be repeated.
    """
    found: dict[int, float] = {}
    highest = 0.0
    for number in sorted(sizes, key=lambda n: (-sizes[n], cost[n])):
        highest = found[number] = max(highest, cost[number])
    return found
