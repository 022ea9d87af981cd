"""Which sizes to try next where a model refuses those of made-up inputs: what its refusal tells, then what is usual."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from onnxfq.feeds.axis_kinds import AxisKind
from onnxfq.feeds.content import CHANNELS, SAMPLING_RATE
from onnxfq.feeds.refusals import Refusal
from onnxfq.signature import IMAGE_SIDE

Axis = str | tuple[str, int]  # the name of a dimension; where it has none, the input and the position
Chosen = Mapping[Axis, int]

TOLD, DERIVED, GUESSED = 0, 1, 2  # how much speaks for a choice
LARGEST: Mapping[AxisKind, int] = {"side": 1_024, "tokens": 4_096, "channels": 1_024, "batch": 64}  # that are tried
LARGEST_OTHER = 1 << 19
_SPECIAL_TOKENS = (0, 1, 2)  # beside those of an image's patches
_MOST_USUAL = 256  # usual sizes that are looked at: far more are never tried
_STEPS = (32, 64)  # of which sizes are often multiples
USUAL: Mapping[AxisKind, tuple[int, ...]] = {
    "side": (IMAGE_SIDE, 32, 384, 96, 512, 64, 28, 256, 128, 48, 640, 448, 299, 336, 320, 160, 112, 192),
    "channels": (*CHANNELS, 2, 12, 13),
    "samples": (SAMPLING_RATE, 48_000, 160_000, 512, 480_000, 400, 1_280, 24_000, 8_000, 1_536),
    "features": (80, 128, 40, 64, 32, 96, 257, 13, 23, 160, 201, 512, 768),
    "frames": (3_000, 100, 128, 16, 1_024, 200, 76, 1_000, 64, 98),
    "tokens": (16, 8, 128, 77, 1, 256, 512),
    "heads": (8, 2, 12, 1, 16, 32),
    "head size": (64, 128, 32, 96, 80, 256, 16, 8),
    "hidden": (768, 512, 1_024, 256, 384, 128, 64, 2_048),
    "other": (1, 2, 3, 8, 16, 32, 64, 128, 256, 512, 768, 1_024),
    "batch": (2, 4, 8),
}


@dataclass(frozen=True, slots=True)
class Trial:
    """Sizes that were tried, and what the model said.

    Attributes:
        sizes: of all axes that are open.
        refusal: why it did not run.
    """

    sizes: Chosen
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Choice:
    """Sizes to try.

    Attributes:
        rank: `TOLD`, `DERIVED` or `GUESSED`.
        sizes: of all axes that are open.
    """

    rank: int
    sizes: Chosen


def next_choices(kinds: Mapping[Axis, AxisKind], trials: Sequence[Trial]) -> list[Choice]:
    """What to try after the last of some trials, the likeliest first.

    Sides of images are tried as squares first. No choice is one that was tried.

    Args:
        kinds: what each open axis counts.
        trials: all so far.
    """
    last = trials[-1]
    found = [*_told(kinds, trials), *islice(_usual(kinds, last), _MOST_USUAL)]
    known = {frozenset(trial.sizes.items()) for trial in trials}
    fresh = []
    for choice in sorted(found, key=lambda choice: choice.rank):  # those of one rank stay in their order
        sizes = frozenset(choice.sizes.items())
        if sizes not in known:
            known.add(sizes)
            fresh.append(choice)
    return fresh


def _told(kinds: Mapping[Axis, AxisKind], trials: Sequence[Trial]) -> Iterator[Choice]:
    """What follows from the sizes that the model got and wanted."""
    last = trials[-1]
    for got, wanted in last.refusal.sizes:
        for group in _groups(kinds):
            size = last.sizes[group[0]]
            for rank, other in _derived(kinds[group[0]], size, got, wanted):
                yield from _changed(rank, kinds, last, group, other)
        yield from _interpolated(kinds, trials, got, wanted)


def _derived(kind: AxisKind, size: int, got: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Sizes for an axis that has one from which what was got may come, each with how much speaks for it."""
    if kind == "batch":
        return  # sizes of 1 are everywhere
    if size == got:
        yield TOLD, wanted
        return
    if kind in ("heads", "head size", "hidden"):
        return
    if kind == "side":
        yield from ((TOLD, side) for side in _squares(size, got, wanted))
    scaled = size * wanted // got
    exact = size * wanted % got == 0 and (size % got == 0 or got % size == 0)
    if kind != "channels" or exact:
        yield (DERIVED if exact else GUESSED), scaled


def _squares(side: int, got: int, wanted: int) -> Iterator[int]:
    """Sides of square images: of which these are patches, besides special tokens, or elements."""
    for special in _SPECIAL_TOKENS:
        old, new = _root(got - special), _root(wanted - special)
        if old and new and side >= old:
            yield side // old * new
    shared = math.gcd(got, wanted)
    old, new = _root(got // shared), _root(wanted // shared)
    if old and new and side * new % old == 0:
        yield side * new // old


def _root(number: int) -> int | None:
    """The whole square root; None where there is none."""
    root = math.isqrt(number) if number > 0 else 0
    return root if root and root * root == number else None


def _interpolated(kinds: Mapping[Axis, AxisKind], trials: Sequence[Trial], got: int, wanted: int) -> Iterator[Choice]:
    """Sizes on the line through two refusals at one place between which one group of axes has changed."""
    last = trials[-1]
    for before in reversed(trials[:-1]):
        changed = [axis for axis in kinds if before.sizes[axis] != last.sizes[axis]]
        if before.refusal.place != last.refusal.place or not changed:
            continue
        new, old = last.sizes[changed[0]], before.sizes[changed[0]]
        if {last.sizes[axis] for axis in changed} != {new} or {before.sizes[axis] for axis in changed} != {old}:
            continue
        others = [other for other, same in before.refusal.sizes if same == wanted and other != got]
        for other in others:
            for power in (1, 2) if kinds[changed[0]] == "side" else (1,):
                a, b, target = (value ** (1 / power) for value in (other, got, wanted))
                size = round(new + (new - old) * (target - b) / (b - a), 6)
                for whole in dict.fromkeys((math.floor(size), math.ceil(size))):
                    yield from _changed(TOLD, kinds, last, changed, whole)
        if others:
            return


def _usual(kinds: Mapping[Axis, AxisKind], last: Trial) -> Iterator[Choice]:
    """Usual sizes, of each group in turn."""
    groups = _groups(kinds)
    batches = [group for group in groups if kinds[group[0]] == "batch"]
    for together in ([group for group in groups if group not in batches], batches):
        rows = [(group, _guesses(kinds[group[0]], last.sizes[group[0]])) for group in together]
        for number in range(max((len(sizes) for _, sizes in rows), default=0)):
            for group, sizes in rows:
                if number < len(sizes):
                    yield from _changed(GUESSED, kinds, last, group, sizes[number])


def _guesses(kind: AxisKind, size: int) -> list[int]:
    usual = list(USUAL.get(kind, ()))
    multiples = [-(-size // step) * step for step in _STEPS] if kind in ("side", "frames", "tokens", "samples") else []
    first = usual[:2] if kind == "samples" else []
    return list(dict.fromkeys([*first, *multiples, *usual]))


def _groups(kinds: Mapping[Axis, AxisKind]) -> list[list[Axis]]:
    """Axes that are changed together: the sides of images, and each other axis by itself; then each side by itself."""
    sides = [axis for axis, kind in kinds.items() if kind == "side"]
    order = list(USUAL)
    others = sorted((axis for axis, kind in kinds.items() if kind != "side"), key=lambda axis: order.index(kinds[axis]))
    together = [sides] if sides else []
    return [*together, *([axis] for axis in others), *([axis] for axis in sides if len(sides) > 1)]


def _changed(
    rank: int, kinds: Mapping[Axis, AxisKind], last: Trial, axes: Sequence[Axis], size: int
) -> Iterator[Choice]:
    """The sizes of the last trial with those of some axes changed."""
    if 1 <= size <= LARGEST.get(kinds[axes[0]], LARGEST_OTHER):
        yield Choice(rank, {**last.sizes, **dict.fromkeys(axes, size)})
