"""What calibration measures and solvers read. Data-free solvers need none of it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Float64Array
from onnxfq.held_tokens import HeldTokens

Derived = TypeVar("Derived")
_FADING = 1024  # tokens, beside which made-up ones are worth half
_NO_VARIANCE = 1e-6  # of the second moments: what float32 sums leave when means are taken away from equal values


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """Means over all calibration tokens of the inputs of one stage (all targets that read one tensor).

    `x` is the input in the floating-point model, `x̃` in the model whose earlier stages are already quantized, rounded
    as the kernel rounds it (`Scheme.activations`).

    Attributes:
        tokens: how many tokens were seen; padding never counts.
        gram: [K, K], mean of `x̃ x̃ᵀ`.
        cross: [K, K], mean of `x x̃ᵀ`; None: equal to `gram`.
        mean: [K], mean of `x̃`.
        float_mean: [K], mean of `x`.
        mean_square: [K], mean of `x̃²` (the diagonal of `gram`), where that is all that is known: without data, a
            normalization layer before the target still tells it, up to a factor.
        min: smallest `x̃` of all, before rounding.
        max: largest of all.
        centred_gram: [K, K], second moments about means, where tokens are of several stages, each with a mean of its
            own; None: they follow from `gram` and `mean`.
        centred_cross: likewise of `cross`.
        drift: [N, K], mean of `(r − r̃) x̃ᵀ`, where the product of a weight [N, K] is added to a residual `r`: how far
            that is off in the model quantized so far, which this weight can make up for. None without a residual.
        drift_mean: [N], mean of `r − r̃`.
        held: the same inputs for tokens that no mean is of.
    """

    tokens: int
    gram: Float64Array | None = None
    cross: Float64Array | None = None
    mean: Float64Array | None = None
    float_mean: Float64Array | None = None
    mean_square: Float64Array | None = None
    min: float | None = None
    max: float | None = None
    centred_gram: Float64Array | None = None
    centred_cross: Float64Array | None = None
    drift: Float64Array | None = None
    drift_mean: Float64Array | None = None
    held: HeldTokens | None = None
    _derived: dict[Hashable, object] = field(default_factory=dict, repr=False, init=False)

    def derived(self, key: Hashable, make: Callable[[Statistics], Derived]) -> Derived:
        """What follows from these statistics, made once for all weights of the stage and gone with them.

        Args:
            key: tells one kind of thing from another; equal keys are the same thing.
            make: makes it.
        """
        if key not in self._derived:
            self._derived[key] = make(self)
        return cast(Derived, self._derived[key])

    def forget(self, key: Hashable) -> None:
        """Keep no longer what was derived under a key."""
        self._derived.pop(key, None)

    def of_rows(self, rows: slice | npt.NDArray[np.intp]) -> Statistics:
        """The same for some rows of the weight; what was derived from it serves for all."""
        if self.drift is None or self.drift_mean is None:
            return self
        held = self.held and replace(self.held, drift=None if self.held.drift is None else self.held.drift[:, rows])
        part = replace(self, drift=self.drift[rows], drift_mean=self.drift_mean[rows], held=held)
        object.__setattr__(part, "_derived", self._derived)
        return part

    def without_drift(self) -> Statistics:
        """The same for a weight whose product is added to no residual."""
        if self.drift is None and self.drift_mean is None:
            return self
        return self.derived("without drift", Statistics._without_drift)

    def _without_drift(self) -> Statistics:
        return replace(self, drift=None, drift_mean=None, held=self.held and replace(self.held, drift=None))

    def about_means(self) -> Statistics:
        """`centred`, made once."""
        return self.derived("about means", Statistics.centred)

    def with_prior(self, mean_square: Float64Array | None, weight: float) -> Statistics:
        """The same after some more tokens that nobody saw: inputs about zero, each independent of the others.

        A few tokens say nothing of most directions, and what is fitted to them alone is worse on others than what is
        made without data. Made-up tokens outweigh a handful, and fade beside thousands, faster than by their number:
        these know better.

        Args:
            mean_square: [K], how large inputs are relative to each other; None: all alike. They are made as large, as
                most of those that were seen.
            weight: how many tokens these count as beside a few; half of it beside 1024, and so on; 0 changes nothing.
        """
        if self.gram is None or not weight:
            return self
        size = _typical(self.gram.diagonal())
        known = mean_square is not None and np.isfinite(mean_square).all() and mean_square.any()
        prior = mean_square * (size / _typical(mean_square)) if known and mean_square is not None else size
        worth = weight / (1 + self.tokens / _FADING)
        seen = self.tokens / (self.tokens + worth)

        def joined(moments: Float64Array | None) -> Float64Array | None:
            if moments is None:
                return None
            moments = seen * moments
            moments[np.diag_indices_from(moments)] += (1 - seen) * prior
            return moments

        mean = None if self.mean is None else seen * self.mean
        float_mean = None if self.float_mean is None else seen * self.float_mean
        return replace(
            self,
            gram=joined(self.gram),
            cross=joined(self.cross),
            mean=mean,
            float_mean=float_mean,
            drift=None if self.drift is None else seen * self.drift,
            drift_mean=None if self.drift_mean is None else seen * self.drift_mean,
        )

    def with_lookups(self, share: float) -> Statistics:
        """The same where rows of the weight are looked up too, and errors count in all columns alike.

        Args:
            share: how much these errors count, in parts of the mean over columns of what is seen.
        """
        if self.gram is None:
            return self
        floor = share * float(self.gram.diagonal().mean()) * np.eye(len(self.gram))

        def raised(moments: Float64Array | None) -> Float64Array | None:
            return None if moments is None else moments + floor

        return replace(
            self,
            gram=raised(self.gram),
            cross=raised(self.cross),
            centred_gram=raised(self.centred_gram),
            centred_cross=raised(self.centred_cross),
        )

    def scaled(self, scale: Float64Array) -> Statistics:
        """The same for inputs that are divided by a scale [K] (but for `min` and `max`)."""

        def divided(value: Float64Array | None) -> Float64Array | None:
            if value is None:
                return None
            return np.asarray(value / scale if value.ndim == 1 else value / np.outer(scale, scale))

        return replace(
            self,
            gram=divided(self.gram),
            cross=divided(self.cross),
            mean=divided(self.mean),
            float_mean=divided(self.float_mean),
            centred_gram=divided(self.centred_gram),
            centred_cross=divided(self.centred_cross),
            drift=None if self.drift is None else self.drift / scale,
            held=self.held and self.held.scaled(scale),
        )

    def centred(self) -> Statistics:
        """The same about the means: what remains to be minimized where a bias takes up the mean error.

        Inputs that do not vary, such as a single token, leave nothing but rounding errors: then they are as they are.
        """
        if self.gram is None or self.mean is None or self.float_mean is None:
            if self.centred_gram is None:
                return self
            return replace(self, gram=self.centred_gram, cross=self.centred_cross)
        held = self.held and self.held.about(self.mean, self.float_mean, self.drift_mean)
        if self.centred_gram is not None:
            return replace(self, gram=self.centred_gram, cross=self.centred_cross, held=held)
        gram = self.gram - np.outer(self.mean, self.mean)
        if gram.trace() <= _NO_VARIANCE * self.gram.trace():
            return self
        cross = None if self.cross is None else self.cross - np.outer(self.float_mean, self.mean)
        drift = self.drift
        if drift is not None and self.drift_mean is not None:
            drift = drift - np.outer(self.drift_mean, self.mean)
        return replace(self, gram=gram, cross=cross, drift=drift, held=held)


def merged(first: Statistics, second: Statistics) -> Statistics:
    """Of the inputs of one product, seen in two parts: means over the tokens of both.

    Raises:
        ValueError: one of them has no `gram`.
    """
    share = first.tokens / max(1, first.tokens + second.tokens)

    def mean(ours: Float64Array | None, other: Float64Array | None) -> Float64Array | None:
        return None if ours is None or other is None else share * ours + (1 - share) * other

    return replace(
        first,
        tokens=first.tokens + second.tokens,
        gram=mean(*_grams(first, second)),
        cross=mean(*_crosses(first, second)),
        mean=mean(first.mean, second.mean),
        float_mean=mean(first.float_mean, second.float_mean),
        min=_extreme(min, first.min, second.min),
        max=_extreme(max, first.max, second.max),
        drift=None,
        drift_mean=None,
        held=first.held and replace(first.held, drift=None),
    )


def pooled(first: Statistics, second: Statistics) -> Statistics:
    """Of the inputs of two products with one weight: means over the tokens of both, about means each about its own.

    `mean` and `float_mean` stay those of the first, whose bias the solver moves.

    Raises:
        ValueError: one of them has no `gram`.
    """
    centred = merged(first.centred(), second.centred())
    return replace(
        merged(first, second),
        mean=first.mean,
        float_mean=first.float_mean,
        centred_gram=centred.gram,
        centred_cross=centred.cross,
    )


def _grams(*parts: Statistics) -> tuple[Float64Array, ...]:
    found = tuple(part.gram for part in parts if part.gram is not None)
    if len(found) < len(parts):
        raise ValueError("there are no second moments to add up")
    return found


def _crosses(*parts: Statistics) -> tuple[Float64Array | None, ...]:
    """Their products between the two models; None for all where these are the same everywhere."""
    if all(part.cross is None for part in parts):
        return tuple(None for _ in parts)
    return tuple(part.gram if part.cross is None else part.cross for part in parts)


def _extreme(choose: Callable[[float, float], float], ours: float | None, other: float | None) -> float | None:
    return ours if other is None else other if ours is None else choose(ours, other)


def _typical(squares: Float64Array) -> float:
    """The size of most channels: a few may be so much larger than the others that they make up all of the mean."""
    return float(np.median(squares)) or float(squares.mean())
