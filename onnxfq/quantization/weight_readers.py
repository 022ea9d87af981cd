"""Weights that several stages read: which one solves them, and whose inputs count besides."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onnxfq.calibration.stages import Stage
from onnxfq.executors.serialization import dump, load, remove
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
    stages: Sequence[Stage],
    planned: Sequence[Planned],
    solved: Collection[Hashable],
    tied: Collection[Hashable] = (),
) -> dict[Hashable, Later]:
    """The later readers of each weight that has some, by `Planned.key`.

    Args:
        stages: in order, those of all routes.
        planned: all targets.
        solved: weights that are stored before the first stage, whatever their readers.
        tied: weights that are stored before the first stage too, but fitted to their readers.
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
    found = {key: Later(others=tuple(readers.pop(key))) for key in tied if key in readers}
    for key, positions in readers.items():
        _, *later = positions
        if later:
            found[key] = Later(tuple(p for p in later if positions[p]), tuple(p for p in later if not positions[p]))
    return found


class Pools:
    """What was measured of later readers, added up for each set of them: a file a set, until the weight is solved.

    Args:
        wanted: the sets.
        folder: for the files, which may be as large as the weights of the model.
    """

    def __init__(self, wanted: Collection[Later], folder: Path) -> None:
        self._wanted, self._folder = list(dict.fromkeys(wanted)), folder
        self._files: dict[tuple[Later, bool], Path] = {}

    def add(self, position: int, statistics: Statistics) -> None:
        """Add the inputs of a stage."""
        for later in self._wanted:
            if position in later.same:
                self._put((later, True), _both(merged, self._pop((later, True)), statistics))
            if position in later.others:
                self._put((later, False), _both(pooled, self._pop((later, False)), statistics))

    def take(self, own: Statistics | None, later: Later) -> Statistics | None:
        """The inputs of the stage that solves a weight, and those of its later readers; None where there are none."""
        own, others = _both(merged, own, self._pop((later, True))), self._pop((later, False))
        if own is None and others is not None:  # the mean that a bias takes up is not known
            return replace(others, mean=None, float_mean=None)
        return _both(pooled, own, others)

    def close(self) -> None:
        """Leave no file."""
        for file in self._files.values():
            remove(file)
        self._files.clear()

    def _put(self, key: tuple[Later, bool], statistics: Statistics | None) -> None:
        self._files[key] = dump(self._folder, statistics)

    def _pop(self, key: tuple[Later, bool]) -> Statistics | None:
        if key not in self._files:
            return None
        file = self._files.pop(key)
        found: Statistics = load(file)
        remove(file)
        return found


def _both(
    add: Callable[[Statistics, Statistics], Statistics], first: Statistics | None, second: Statistics | None
) -> Statistics | None:
    """Two measurements added up; where one is missing, the other."""
    if first is None or second is None:
        return second if first is None else first
    return add(first, second)


def grouped(planned: Mapping[int, Planned], later: Mapping[Hashable, Later]) -> dict[Later, dict[int, Planned]]:
    """A stage's targets by who else reads their weights."""
    groups: dict[Later, dict[int, Planned]] = {}
    for index, p in planned.items():
        groups.setdefault(later.get(p.key, Later()), {})[index] = p
    return groups
