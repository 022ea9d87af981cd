"""Weights that several stages read: which one solves them, and whose inputs count besides."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

from onnxfq.calibration.stages import Stage
from onnxfq.quantization.assign import Planned
from onnxfq.statistics import Statistics, merged, pooled


@dataclass(frozen=True, slots=True)
class Later:
    """The stages that read a weight after the one that solves it.

    Attributes:
        same: their positions, where it is the same product, of samples that take another route.
        others: their positions, where it is another product.
    """

    same: tuple[int, ...] = ()
    others: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.same or self.others)


def find_later(
    stages: Sequence[Stage], planned: Sequence[Planned], solved: Collection[Hashable]
) -> dict[Hashable, Later]:
    """The later readers of each weight that has some, by `Planned.key`.

    Args:
        stages: in order, those of all routes.
        planned: all targets.
        solved: weights that are stored before the first stage.
    """
    readers: dict[Hashable, dict[int, bool]] = {}
    first: dict[Hashable, set[int]] = {}
    for position, stage in enumerate(stages):
        for index in stage.targets:
            key = planned[index].key
            if key in solved:
                continue
            first.setdefault(key, {i for i in stage.targets if planned[i].key == key})
            same = index in first[key]
            readers.setdefault(key, {})[position] = same and readers.get(key, {}).get(position, True)
    found = {}
    for key, positions in readers.items():
        _, *later = positions
        if later:
            found[key] = Later(tuple(p for p in later if positions[p]), tuple(p for p in later if not positions[p]))
    return found


class Pools:
    """What was measured of later readers, added up for each set of them: one matrix a set, however many they are.

    Args:
        wanted: the sets.
    """

    def __init__(self, wanted: Collection[Later]) -> None:
        self._same: dict[Later, Statistics] = {}
        self._others: dict[Later, Statistics] = {}
        self._wanted = list(dict.fromkeys(wanted))

    def add(self, position: int, statistics: Statistics) -> None:
        """Add the inputs of a stage."""
        for later in self._wanted:
            if position in later.same:
                self._same[later] = _added(self._same.get(later), statistics)
            if position in later.others:
                self._others[later] = _pooled(self._others.get(later), statistics)

    def joined(self, own: Statistics, later: Later) -> Statistics:
        """The inputs of the stage that solves a weight, and those of its later readers."""
        same, others = self._same.get(later), self._others.get(later)
        own = own if same is None else merged(own, same)
        return own if others is None else pooled(own, others)


def _added(known: Statistics | None, found: Statistics) -> Statistics:
    return found if known is None else merged(known, found)


def _pooled(known: Statistics | None, found: Statistics) -> Statistics:
    return found if known is None else pooled(known, found)


def grouped(planned: Mapping[int, Planned], later: Mapping[Hashable, Later]) -> dict[Later, dict[int, Planned]]:
    """A stage's targets by who else reads their weights."""
    groups: dict[Later, dict[int, Planned]] = {}
    for index, p in planned.items():
        groups.setdefault(later.get(p.key, Later()), {})[index] = p
    return groups
