"""What a run may find at worst: limits in the baseline's units or in percent of its figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

from onnxfq.errors import UsageError
from onnxfq.metrics.gates import Gate
from onnxfq.metrics.metric import Metric

IN_PERCENT = ("max_ppl_increase", "max_drop")  # of the baseline's figure
NOTHING_MEASURED = "it was not measured"
SCORES = ("lambada_accuracy", "spearman", "accuracy", "bleu", "chrf")  # the higher, the better


@dataclass(frozen=True, slots=True)
class Limit:
    """A number, or a fraction of what the baseline reaches."""

    value: float
    relative: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Gates; None sets no limit.

    Attributes:
        max_ppl_increase: how far the perplexity may be above the baseline's.
        max_kl: largest mean KL, in nats.
        min_cosine: smallest mean cosine; of several outputs, the smallest of them.
        max_error: largest relative MSE over the floating outputs.
        max_drop: how far scores (accuracy, Spearman, BLEU, chrF) may be below the baseline's.
        min_speedup: smallest speed-up over all cases that were timed.
    """

    max_ppl_increase: Limit | None = None
    max_kl: Limit | None = None
    min_cosine: Limit | None = None
    max_error: Limit | None = None
    max_drop: Limit | None = None
    min_speedup: Limit | None = None

    @classmethod
    def parse(cls, given: Mapping[str, str | float | None]) -> Limits:
        """Limits as a user wrote them, by the names of the attributes: `{"max_ppl_increase": "1%"}`.

        Raises:
            UsageError: one is no number of 0 or more, or a percentage where there can be none.
        """
        return cls(**{n: parse_limit(v, n, percent=n in IN_PERCENT) for n, v in given.items()})

    @property
    def chosen(self) -> dict[str, Limit]:
        """The limits that are set, by the names of their options."""
        found = ((f.name.replace("_", "-"), getattr(self, f.name)) for f in fields(self))
        return {name: limit for name, limit in found if limit is not None}

    def refuse_unmeasured(self, names: Sequence[str], task: str) -> None:
        """Refuse limits on figures that a task does not measure.

        Args:
            names: of the figures that it measures.
            task: named in the message.

        Raises:
            UsageError: with every such limit.
        """
        idle = [option for option in self.chosen if not set(_READS[option]).intersection(names)]
        if idle:
            options = " and ".join(f"`{option.replace('-', '_')}`" for option in idle)
            raise UsageError(
                f"There is nothing to limit for {options}: the task {task} measures {', '.join(names) or 'nothing'}. "
                "Drop the limit, or give the data that it needs."
            )

    def gates(self, figures: Sequence[Metric]) -> Iterator[Gate]:
        """Hold figures against the limits; where a figure has no value, its gate fails.

        Args:
            figures: of one evaluation, or of the outputs of one comparison.
        """
        for option, limit in self.chosen.items():
            concerned = [figure for figure in figures if figure.name in _READS[option]]
            values = [_MEASURES[option](figure, limit) for figure in concerned]
            known = [value for value in values if value is not None]
            worst = min if option.startswith("min") else max
            measured = worst(known) if known and len(known) == len(values) else None
            passed = measured is not None and worst(measured, limit.value) == limit.value
            missing = [figure for figure, value in zip(concerned, values, strict=True) if value is None]
            note = "" if measured is not None else _why(missing)
            yield Gate(option, limit.value, measured, passed, relative=limit.relative, note=note)


def _why(figures: Sequence[Metric]) -> str:
    """Why there is nothing to hold against a limit."""
    return "; ".join(dict.fromkeys(f.note for f in figures if f.note)) or NOTHING_MEASURED


def parse_limit(given: str | float | None, option: str, *, percent: bool) -> Limit | None:
    """A limit from what a user wrote: 0.5, "0.5" or "1%".

    Args:
        given: the limit; None sets none.
        option: names it, for messages.
        percent: whether a percentage makes sense, of the baseline's figure.

    Raises:
        UsageError: it is no number of 0 or more, or a percentage where there can be none.
    """
    if given is None:
        return None
    text = str(given).strip()
    relative = percent and text.endswith("%")
    try:
        value = float(text.removesuffix("%").rstrip() if relative else text) / (100 if relative else 1)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        wanted = "a number of 0 or more, or a percentage such as 1%" if percent else "a number of 0 or more"
        raise UsageError(f"`{option}` must be {wanted} (got {given}).")
    return Limit(value, relative)


def _increase(figure: Metric, limit: Limit) -> float | None:
    return figure.relative_difference if limit.relative else figure.difference


def _drop(figure: Metric, limit: Limit) -> float | None:
    change = _increase(figure, limit)
    return None if change is None else -change


def _value(figure: Metric, limit: Limit) -> float | None:
    return figure.value


_READS = {
    "max-ppl-increase": ("perplexity",),
    "max-kl": ("kl",),
    "min-cosine": ("cosine",),
    "max-error": ("relative_mse",),
    "max-drop": SCORES,
    "min-speedup": ("speedup",),
}
_MEASURES: dict[str, Callable[[Metric, Limit], float | None]] = {
    "max-ppl-increase": _increase,
    "max-kl": _value,
    "min-cosine": _value,
    "max-error": _value,
    "max-drop": _drop,
    "min-speedup": _value,
}
