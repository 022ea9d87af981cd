"""Sizes on which a model runs, found by asking it: what it refuses tells which to try next."""

from __future__ import annotations

import heapq
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from time import monotonic

from onnxfq.errors import DataError, ModelError, OperatorError
from onnxfq.feeds.axis_kinds import AxisKind, axis_kind
from onnxfq.feeds.feed import Feed
from onnxfq.feeds.plausible_sizes import GUESSED, Axis, Choice, Chosen, Trial, next_choices
from onnxfq.feeds.refusals import read_refusal
from onnxfq.progress import Progress, silent
from onnxfq.signature import Signature, TensorSpec

_LOGGER = logging.getLogger(__name__)

MOST_TRIALS = 40
MOST_SECONDS = 60.0  # after which no further sizes are tried: a safeguard, and told where it ends a search
MOST_TRIED = 1 << 22  # of inputs that are tried, together
_FIXED = ("past", "follows")  # what decides on the length of these is not their own size


class RefusedError(Exception):
    """A model runs on none of the sizes that were tried.

    Attributes:
        error: what it said of the first ones.
        trials: how many more were tried.
        timed_out: whether more would have been on a faster machine.
    """

    def __init__(self, error: DataError | ModelError, trials: int, *, timed_out: bool = False) -> None:
        super().__init__(str(error))
        self.error, self.trials, self.timed_out = error, trials, timed_out


def fit_sizes(
    signature: Signature,
    make: Callable[[Signature], Feed],
    run: Callable[[Feed], object],
    progress: Progress = silent,
) -> Signature:
    """A signature whose open sizes suit the model: `TensorSpec.fitting` says how its inputs are to be made up.

    Sizes that it runs on at once stay open.

    Args:
        signature: the model's inputs.
        make: makes inputs up.
        run: runs the model, or raises.
        progress: told about every trial but the first.

    Raises:
        DataError: nothing can be made up for the model.
        OperatorError: it cannot run at all.
        RefusedError: it runs on none of the sizes that were tried.
    """
    feed = make(signature)
    error = _why_not(run, feed)
    if error is None:
        return signature
    kinds = _open_axes(signature)
    search = _Search(kinds, _sizes(signature, kinds, feed), str(error))
    asked = _Asked(signature, search.first, make, run, progress)
    while not (asked.enough or asked.timed_out) and (sizes := search.next()) is not None:
        refusal = asked.why_not(sizes)
        if refusal is None:
            return asked.signature(asked.nearer(sizes))
        if refusal:
            search.learn(sizes, refusal)
    raise RefusedError(error, asked.trials, timed_out=asked.timed_out and not asked.enough)


def is_guessed(signature: Signature) -> bool:
    """Whether sizes are open on which a model's running may depend, other than how many rows and tokens there are."""
    return not set(_open_axes(signature).values()) <= {"batch", "tokens"}


class _Asked:
    """A model that is asked which sizes suit it.

    Attributes:
        trials: how often it was asked.
    """

    def __init__(
        self,
        signature: Signature,
        first: Chosen,
        make: Callable[[Signature], Feed],
        run: Callable[[Feed], object],
        progress: Progress,
    ) -> None:
        self.trials, self._end = 0, monotonic() + MOST_SECONDS
        self._seen: set[tuple[tuple[int, ...], ...]] = set()
        self._signature, self._first, self._make, self._run, self._progress = signature, first, make, run, progress

    @property
    def enough(self) -> bool:
        """Whether it is not to be asked again."""
        return self.trials >= MOST_TRIALS

    @property
    def timed_out(self) -> bool:
        """Whether it took too long; sizes on which it runs never depend on that, but whether some are found."""
        return monotonic() > self._end

    def signature(self, sizes: Chosen) -> Signature:
        """One that makes inputs of these sizes; those tried first stay open."""
        changed = {axis: size for axis, size in sizes.items() if size != self._first[axis]}
        return _with_sizes(self._signature, changed)

    def why_not(self, sizes: Chosen) -> str | None:
        """Why it does not run on some sizes, "" where that was not tried; None where it does."""
        try:
            feed = self._make(self.signature(sizes))
        except DataError:
            return ""
        shapes = tuple(array.shape for array in feed.values())
        if shapes in self._seen or sum(array.size for array in feed.values()) > MOST_TRIED:
            return ""
        self._seen.add(shapes)
        self._progress("looking for sizes that suit the model", self.trials, MOST_TRIALS)
        self.trials += 1
        error = _why_not(self._run, feed)
        _LOGGER.debug("sizes %s: %s", sizes, error or "suit the model")
        return None if error is None else str(error)

    def nearer(self, sizes: Chosen) -> Chosen:
        """The same with as many as may be of the sizes that were tried first."""
        changed = [axis for axis, size in sizes.items() if size != self._first[axis]]
        for axis in changed if len(changed) > 1 else ():
            other = {**sizes, axis: self._first[axis]}
            if not self.enough and self.why_not(other) is None:
                sizes = other
        return sizes


class _Search:
    """Which sizes come next: what a refusal tells, newest first; then what is usual, for the first refusals first.

    Attributes:
        first: the sizes tried first.
    """

    def __init__(self, kinds: Mapping[Axis, AxisKind], sizes: Chosen, refusal: str) -> None:
        self.first = sizes
        self._kinds = kinds
        self._trials: list[Trial] = []
        self._places: set[str] = set()
        self._queue: list[tuple[tuple[int, ...], Choice]] = []
        self._numbers = count()
        self._rank = 0
        self.learn(sizes, refusal)

    def next(self) -> Chosen | None:
        """The likeliest sizes that were not tried; None where there are no more."""
        while self._queue:
            _, choice = heapq.heappop(self._queue)
            if all(choice.sizes != trial.sizes for trial in self._trials):
                self._rank = choice.rank
                return choice.sizes
        return None

    def learn(self, sizes: Chosen, refusal: str) -> None:
        """Take in what the model said of the sizes that came last."""
        trial = Trial(sizes, read_refusal(refusal))
        is_new, was_guessed = trial.refusal.place not in self._places, self._rank == GUESSED
        self._places.add(trial.refusal.place)
        self._trials.append(trial)
        for choice in next_choices(self._kinds, self._trials):
            if is_new or choice.rank < GUESSED:
                later = int(was_guessed) if choice.rank == GUESSED else 0
                weight = sum(choice.sizes.values()) if choice.rank < GUESSED else 0  # smaller ones take less time
                key = (choice.rank, later, -len(self._trials), weight, next(self._numbers))
                heapq.heappush(self._queue, (key, choice))


def _why_not(run: Callable[[Feed], object], feed: Feed) -> DataError | ModelError | None:
    """Why a model does not run; None where it does."""
    try:
        run(feed)
    except OperatorError:
        raise
    except (DataError, ModelError) as error:
        return error
    return None


def _open_axes(signature: Signature) -> dict[Axis, AxisKind]:
    """What each size counts that may be chosen, by the name of the dimension, or input and axis where it has none."""
    kinds: dict[Axis, AxisKind] = {}
    for spec in signature.inputs:
        for axis, key in _keys(spec).items():
            kind = axis_kind(spec, axis)
            if kind not in _FIXED and kinds.get(key, "other") == "other":
                kinds[key] = kind
    return kinds


def _keys(spec: TensorSpec) -> dict[int, Axis]:
    """The open axes of an input; dimensions that follow from others are none."""
    dimensions = enumerate(spec.shape or ())
    named = {a: (spec.name, a) if d is None else d for a, d in dimensions if not isinstance(d, int)}
    return {a: key for a, key in named.items() if not isinstance(key, str) or re.fullmatch(r"[\w.:?]+", key)}


def _sizes(signature: Signature, kinds: Mapping[Axis, AxisKind], feed: Feed) -> Chosen:
    found: dict[Axis, int] = {}
    for spec in signature.inputs:
        for axis, key in _keys(spec).items():
            if key in kinds and axis_kind(spec, axis) not in _FIXED:
                found.setdefault(key, feed[spec.name].shape[axis])
    return {key: found[key] for key in kinds}


def _with_sizes(signature: Signature, sizes: Chosen) -> Signature:
    """A signature in which some sizes take the place of what suited before."""
    inputs = []
    for spec in signature.inputs:
        keys = _keys(spec)
        known = spec.fitting or (None,) * len(spec.shape or ())
        fitting = tuple(
            sizes.get(keys[a], size) if a in keys and axis_kind(spec, a) not in _FIXED else size
            for a, size in enumerate(known)
        )
        inputs.append(replace(spec, fitting=fitting) if any(fitting) else spec)
    return replace(signature, inputs=tuple(inputs))
