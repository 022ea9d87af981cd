"""Passes over samples, each a way down, and the best place on it by samples that no step is of."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxfq.arrays import Float32Array
from onnxfq.feeds import Feed
from onnxfq.tuning.adam import Adam
from onnxfq.tuning.training import NotTunableError, Training

_LOGGER = logging.getLogger(__name__)

RATE = 5e-4  # the largest step, in parts of what is tuned
FEW_BITS_RATE = 2e-3  # with 2 bits there is more to make up for


@dataclass(frozen=True, slots=True)
class Descent:
    """What tuning did to the loss on samples that it was not fitted to.

    Attributes:
        before: the loss at first.
        after: at the best place, where the parameters are left.
        passes: after how many passes that was; 0 where no place was better than the first.
    """

    before: float
    after: float
    passes: int


def tune(
    training: Training,
    batches: Sequence[Sequence[Feed]],
    held: Sequence[Feed],
    *,
    passes: int,
    rate: float,
    seed: int,
    tell: Callable[[], None],
) -> Descent:
    """Go down the slope of the loss.

    Args:
        training: the models; its parameters are changed.
        batches: the samples of each step.
        held: other samples, by which the best pass is chosen; those whose loss is no number are left out.
        passes: how often all samples are gone through.
        rate: the largest step.
        seed: of the order in which samples come.
        tell: called after every step and every sample held.

    Raises:
        NotTunableError: gradients are not right, or the loss is no number.
    """
    training.check()
    random, adam = np.random.default_rng(seed), Adam(rate, passes * len(batches))
    held = [feed for feed in held if math.isfinite(training.loss(feed))]
    if not held:
        raise NotTunableError("its loss on the tuning samples is no number: give others, or more")
    before = best = _held(training, held, tell)
    kept, at = _changes(training), 0
    for number in range(passes):
        for index in random.permutation(len(batches)):
            _step(training, adam, batches[index])
            tell()
        loss = _held(training, held, tell)
        _LOGGER.debug("tuning: loss %.6g after pass %d, %.6g before", loss, number + 1, before)
        if loss < best:
            best, kept, at = loss, _changes(training), number + 1
    for name, parameter in training.parameters.items():
        parameter.move(kept[name])
    return Descent(before, best, at)


def _step(training: Training, adam: Adam, samples: Sequence[Feed]) -> None:
    """One step down the slope of some samples; none where it is no number."""
    total: dict[str, Float32Array] = {}
    for feed in samples:
        slopes = training.slopes(feed)
        total = {name: total[name] + slope if total else slope for name, slope in slopes.items()}
    if not all(np.isfinite(slope).all() for slope in total.values()):
        return
    adam.start()
    for name, slope in total.items():
        parameter = training.parameters[name]
        parameter.move(parameter.changes() + adam.step(name, slope))


def _held(training: Training, held: Sequence[Feed], tell: Callable[[], None]) -> float:
    total = 0.0
    for feed in held:
        total += training.loss(feed)
        tell()
    return total


def _changes(training: Training) -> dict[str, Float32Array]:
    return {name: parameter.changes() for name, parameter in training.parameters.items()}
