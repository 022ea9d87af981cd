"""How much an error is, in a word: bands that were measured on models whose task has a score (see README.md here)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from onnxfq.metrics.output_accuracy import OutputAccuracy
from onnxfq.reports.figures import cosine_text, figure_text, share_text

Level = Literal["negligible", "small", "noticeable", "damaged", "broken", "unclear", ""]
LEVELS: tuple[Level, ...] = ("negligible", "small", "noticeable", "damaged")

# The largest KL (in nats) and relative MSE, and the smallest top-1 agreement and cosine, of each level but the last.
KL, TOP1 = (0.01, 0.05, 0.2), (0.93, 0.83, 0.7)
RELATIVE_MSE, COSINE = (0.005, 0.05, 0.25), (0.997, 0.97, 0.86)
_CACHES = ("present", "past")


@dataclass(frozen=True, slots=True)
class Loss:
    """What quantizing did to the outputs.

    Attributes:
        level: in a word; "broken" where an output is NaN, missing or of another shape; "unclear" where all samples give
            the same, so that a small error says nothing; "" where nothing was compared.
        text: the figures that say so.
        samples: how many they come from; 0 where that is not known.
    """

    level: Level
    text: str = ""
    samples: int = 0


def loss_of(outputs: Sequence[OutputAccuracy]) -> Loss:
    """The worst output's; caches count only where there is nothing else, and where logits are, nothing else does."""
    seen = [output for output in outputs if output.is_compared]
    broken = next((output for output in seen if _is_broken(output)), None)
    if broken is not None:
        return Loss("broken", f"{broken.name}: {broken.note or 'it could not be compared'}", broken.samples)
    answers = [output for output in seen if not is_cache(output)] or seen
    judged = [output for output in answers if output.kl is not None] or answers
    losses = [_loss_of_alike(output) if output.is_float and output.is_alike else _loss(output) for output in judged]
    clear = [pair for pair in zip(judged, losses, strict=True) if pair[1].level in LEVELS]
    return max(clear, key=_badness)[1] if clear else next(iter(losses), Loss(""))


def _badness(found: tuple[OutputAccuracy, Loss]) -> tuple[int, float]:
    """What makes one output worse than another: its level, and within that its figure."""
    output, loss = found
    figure = 1 - output.equal if output.equal is not None else output.relative_mse if output.kl is None else output.kl
    return LEVELS.index(loss.level), figure or 0.0


def _is_broken(output: OutputAccuracy) -> bool:
    """Whether it has no error; one that is the same for all samples has none that is finite."""
    return output.equal is None and output.relative_mse is None and (not output.is_alike or output.cosine is None)


def _loss_of_alike(output: OutputAccuracy) -> Loss:
    """Of an output that hardly changes from sample to sample: large errors are, small ones say nothing."""
    found = _loss(replace(output, relative_mse=None, top1=None if output.kl is None else 1.0))
    if found.level in LEVELS[2:]:
        return found
    full = found if output.relative_mse is None else _loss(output)
    return Loss("unclear", f"{full.text}, but hardly anything changes from sample to sample", output.samples)


def is_cache(output: OutputAccuracy) -> bool:
    """Whether an output is a part of the cache of a language model."""
    return output.name.split(": ")[-1].startswith(_CACHES)


def worst_cache(outputs: Sequence[OutputAccuracy]) -> OutputAccuracy | None:
    """The cache output with the largest error, one without a figure before all others; None where there are none."""
    caches = [output for output in outputs if is_cache(output)]
    return max(caches, key=lambda o: float("inf") if o.relative_mse is None else o.relative_mse, default=None)


def _loss(output: OutputAccuracy) -> Loss:
    few = output.samples
    if output.equal is not None:
        return Loss(_level(output.equal, TOP1, _below), f"{output.name} {share_text(output.equal, few)} equal", few)
    if output.kl is not None and output.top1 is not None:
        levels = _level(output.kl, KL, _above), _level(output.top1, TOP1, _below)
        text = f"mean KL {figure_text(output.kl, few)}, top-1 agreement {share_text(output.top1, few)}"
        return Loss(max(levels, key=LEVELS.index), text, few)
    error, cosine = output.relative_mse or 0.0, output.cosine
    levels = _level(error, RELATIVE_MSE, _above), "negligible" if cosine is None else _level(cosine, COSINE, _below)
    text = "" if output.relative_mse is None else f"relative MSE {figure_text(error, few)}"
    text = text if cosine is None else f"cosine {cosine_text(cosine, few)}{f', {text}' if text else ''}"
    return Loss(max(levels, key=LEVELS.index), text, few)


def _level(value: float, limits: Sequence[float], beyond: Callable[[float, float], bool]) -> Level:
    return LEVELS[sum(beyond(value, limit) for limit in limits)]


def _above(value: float, limit: float) -> bool:
    return value > limit


def _below(value: float, limit: float) -> bool:
    return value < limit
