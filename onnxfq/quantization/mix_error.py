"""One figure for how far a model's outputs are from the original's: what a mix of bits makes small."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from onnxfq.metrics.output_accuracy import OutputAccuracy
from onnxfq.metrics.output_error import are_logits
from onnxfq.metrics.worst_outputs import worst_metrics
from onnxfq.options import Options
from onnxfq.signature import TensorSpec

_LIMITED = {"max_kl": "kl", "max_error": "relative_mse"}  # metrics by the settings that limit them
_WORDS = {"kl": "mean KL", "relative_mse": "relative MSE"}


@dataclass(frozen=True, slots=True)
class MixError:
    """Measures outputs: in parts of what is allowed of them, where that is the budget.

    Attributes:
        limits: by the name of the metric; empty where a size is the budget.
    """

    limits: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, options: Options) -> MixError:
        """What the settings ask for."""
        wanted, chosen = options.size_target, options.gates.chosen
        if wanted is None or not wanted.is_smallest:
            return cls()
        return cls({metric: chosen[name].value for name, metric in _LIMITED.items() if name in chosen})

    def __call__(self, outputs: Sequence[OutputAccuracy]) -> float:
        """The error; infinite where an output is broken."""
        return self._used(outputs) if self.limits else output_error(outputs)

    def wanted(self, outputs: Sequence[TensorSpec]) -> list[str]:
        """The outputs that count: the logits alone where there are some, unless others are limited too."""
        floats = [spec.name for spec in outputs if OutputAccuracy(spec.name, spec.dtype).is_float]
        logits = [name for name in floats if are_logits(name)]
        return floats if "relative_mse" in self.limits else logits or floats

    def figure(self, error: float) -> float | None:
        """An error in its own metric: of several limits, that of the first."""
        return finite(error * next(iter(self.limits.values())) if self.limits else error)

    @property
    def metric(self) -> str:
        """In words: the metric of the first limit."""
        return _WORDS[next(iter(self.limits))]

    def in_its_metric(self, outputs: Sequence[OutputAccuracy]) -> float:
        """The figure that the first limit is about; infinite where an output is broken."""
        name = next(iter(self.limits))
        value = next((metric.value for metric in worst_metrics(outputs) if metric.name == name), None)
        return math.inf if value is None else value

    def _used(self, outputs: Sequence[OutputAccuracy]) -> float:
        """The largest part of a limit that is used up."""
        known = {metric.name: metric.value for metric in worst_metrics(outputs)}
        return max(_part(known.get(name), limit) for name, limit in self.limits.items())


def output_error(outputs: Sequence[OutputAccuracy]) -> float:
    """The mean KL over all outputs that are logits, else the mean relative MSE of all; infinite where one is broken."""
    floats = [output for output in outputs if output.is_float and output.is_compared]
    divergences: list[float | None] = [output.kl for output in floats if output.kl is not None]
    errors = divergences or [output.relative_mse for output in floats]
    known = [error for error in errors if error is not None]
    return sum(known) / len(known) if known and len(known) == len(errors) else math.inf


def finite(error: float) -> float | None:
    """None in place of what JSON cannot hold."""
    return error if math.isfinite(error) else None


def _part(value: float | None, limit: float) -> float:
    if value is None:
        return math.inf
    return value / limit if limit else (math.inf if value else 0.0)
