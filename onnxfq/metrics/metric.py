"""One metric of a model, beside the same of another model where there is one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxfq.arrays import Float64Array


@dataclass(frozen=True, slots=True)
class Metric:
    """What was measured of a model. All values are safe to write as JSON.

    None stands for a value that does not apply, that is not finite (`note` then says why), or that is not measured yet.

    Attributes:
        name: such as "perplexity" or "kl".
        value: the model's.
        standard_error: of the value, from its spread over the samples.
        baseline: the baseline's value; None for metrics that compare the two models, such as KL.
        difference: value − baseline.
        difference_error: standard error of the difference, from the samples' own differences: what makes a sample hard
            for both models does not count.
        samples: how many the value is a mean of, or comes from in another way; None where that says nothing.
        note: what to know about this metric; None where there is nothing.
        higher_is_better: whether a model with a higher value is the better one; None for metrics that compare the two
            models: those say how near they are.
    """

    name: str
    value: float | None
    standard_error: float | None = None
    baseline: float | None = None
    difference: float | None = None
    difference_error: float | None = None
    samples: int | None = None
    note: str | None = None
    higher_is_better: bool | None = None

    @property
    def relative_difference(self) -> float | None:
        """The difference as a fraction of the baseline."""
        if self.difference is None or not self.baseline:
            return None
        return self.difference / abs(self.baseline)


def mean_metric(metric: Metric, values: Sequence[float], baseline: Sequence[float] | None = None) -> Metric:
    """A metric that is a mean over samples, and the mean of their differences from the baseline's.

    Args:
        metric: its name, and which values are better.
        values: one a sample.
        baseline: the baseline's, sample by sample; None where there is no baseline, or nothing to compare.
    """
    own = np.asarray(values, np.float64)
    measured = replace(metric, value=mean(own), standard_error=standard_error(own), samples=len(own), note=trouble(own))
    if baseline is None:
        return measured
    other = np.asarray(baseline, np.float64)
    with np.errstate(invalid="ignore"):
        differences = own - other
    return replace(
        measured,
        baseline=mean(other),
        difference=mean(differences),
        difference_error=standard_error(differences),
        note=measured.note or trouble(other, "the baseline's "),
    )


def mean(values: Float64Array) -> float | None:
    """None where there are no values, or not all are finite."""
    with np.errstate(invalid="ignore"):
        return finite(float(values.mean())) if len(values) else None


def standard_error(values: Float64Array) -> float | None:
    """Of the mean of independent samples; None for fewer than two."""
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    return finite(float(values.std(ddof=1) / math.sqrt(len(values))))


def trouble(values: Float64Array, whose: str = "") -> str | None:
    """Why a mean is not finite; None where it is."""
    bad = int((~np.isfinite(values)).sum())
    return f"{bad} of {whose}{len(values)} samples gave NaN or infinity" if bad else None


def finite(value: float) -> float | None:
    """None in place of NaN and infinity, which JSON cannot hold."""
    return value if math.isfinite(value) else None
