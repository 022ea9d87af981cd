"""Gates: what a user allows of metrics at worst, and whether it holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Self

from onnxfq.errors import GateError, UsageError
from onnxfq.metrics.metric import Metric

NOTHING_MEASURED = "it was not measured"
OF_CHANGES = ("max_ppl_increase", "max_drop")  # from the baseline: these may be in percent of its metric


@dataclass(frozen=True, slots=True)
class Gate:
    """One limit on a metric, and whether it holds.

    Attributes:
        name: the option that set it, such as "max-error".
        limit: what the user allows.
        measured: what was measured; None where there is no such metric, and then the gate fails.
        passed: whether it holds.
        relative: whether limit and measured are fractions of the baseline's metric.
        note: why nothing was measured, or of what interval the measured one is the end that counts; else "".
        in_sample: whether it was measured on the very samples that the model was calibrated with.
    """

    name: str
    limit: float
    measured: float | None
    passed: bool
    relative: bool = False
    note: str = ""
    in_sample: bool = False

    @property
    def measured_text(self) -> str:
        """What was measured, for people: `0.02`, `2.6 %`, `0.97 (lower bound of …)`, `without a figure (…)`."""
        if self.measured is None:
            figure = "without a figure"
        else:
            figure = f"{100 * self.measured:.4g} %" if self.relative else f"{self.measured:.4g}"
            figure += " in-sample" if self.in_sample else ""
        return f"{figure} ({self.note})" if self.note else figure

    @property
    def limit_text(self) -> str:
        """The limit, for people: `0.01`, `1 %`."""
        return f"{100 * self.limit:g} %" if self.relative else f"{self.limit:g}"

    def __str__(self) -> str:
        """For people: `max-error: 0.02, limit 0.01: failed`."""
        return f"{self.name}: {self.measured_text}, limit {self.limit_text}: {'passed' if self.passed else 'failed'}"


class Gated:
    """A result with gates."""

    __slots__ = ()
    gates: tuple[Gate, ...]

    @property
    def passed(self) -> bool:
        """Whether every gate holds."""
        return all(gate.passed for gate in self.gates)

    def require(self) -> Self:
        """Return itself if every gate holds.

        Raises:
            GateError: some do not; they are named.
        """
        self._require(self.gates)
        return self

    @property
    def _gates_text(self) -> str:
        """Whether the gates hold, in few words: `1 of 2 gates failed: max-kl`; "" without gates."""
        failed = [gate.name for gate in self.gates if not gate.passed]
        count = f"{len(self.gates)} gate{'s' if len(self.gates) > 1 else ''}"
        if failed:
            return f"{len(failed)} of {count} failed: {', '.join(failed)}"
        return f"{count} passed" if self.gates else ""

    def _require(self, gates: Iterable[Gate]) -> None:
        failed = [str(gate) for gate in gates if not gate.passed]
        if failed:
            raise GateError(
                f"{self._gated()} fails {len(failed)} {'gate' if len(failed) == 1 else 'gates'}: {'; '.join(failed)}."
            )

    def _gated(self) -> str:
        """The model that the gates are about, for messages."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Limit:
    """A number, or a fraction of what the baseline reaches."""

    value: float
    relative: bool = False

    @classmethod
    def parse(cls, given: str | float, name: str) -> Limit:
        """A limit as a user wrote it: 0.5, "0.5" or "1%".

        Args:
            given: the limit.
            name: of the setting, such as "max_drop".

        Raises:
            UsageError: it is no number of 0 or more, or a percentage where there can be none.
        """
        text = str(given).strip()
        relative = name in OF_CHANGES and text.endswith("%")
        try:
            value = float(text.removesuffix("%").rstrip() if relative else text) / (100 if relative else 1)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            percentage = ", or a percentage such as 1%" if name in OF_CHANGES else ""
            raise UsageError(f"`{name}` must be a number of 0 or more{percentage} (got {given}).")
        return cls(value, relative)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """The limits that a user set; None sets none.

    Attributes:
        max_ppl_increase: how far the perplexity may be above the baseline's.
        max_kl: largest mean KL, in nats.
        min_cosine: smallest mean cosine; of several outputs, the smallest of them.
        max_error: largest relative MSE over the floating outputs.
        max_drop: how far metrics that are better when higher (accuracy, Spearman, BLEU, chrF) may be below the
            baseline's.
        min_speedup: smallest speed-up over all cases that were timed; the lower bounds of their intervals count.
    """

    max_ppl_increase: Limit | None = None
    max_kl: Limit | None = None
    min_cosine: Limit | None = None
    max_error: Limit | None = None
    max_drop: Limit | None = None
    min_speedup: Limit | None = None

    @classmethod
    def parse(cls, given: Mapping[str, str | float | None]) -> Gates:
        """Limits as a user wrote them, by the names of the attributes: `{"max_ppl_increase": "1%"}`.

        Raises:
            UsageError: one is no number of 0 or more, or a percentage where there can be none.
        """
        return cls(**{n: None if v is None else Limit.parse(v, n) for n, v in given.items()})

    @property
    def chosen(self) -> dict[str, Limit]:
        """The limits that are set, by the names of their settings."""
        found = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {name: limit for name, limit in found if limit is not None}

    def refuse_unmeasured(self, metrics: Sequence[Metric], task: str) -> None:
        """Refuse limits on metrics that a task does not measure.

        Args:
            metrics: those that it measures; their values do not matter.
            task: named in the message.

        Raises:
            UsageError: with every such limit.
        """
        idle = [name for name in self.chosen if not any(_concerns(name, metric) for metric in metrics)]
        if idle:
            settings = " and ".join(f"`{name}`" for name in idle)
            names = ", ".join(metric.name for metric in metrics)
            raise UsageError(
                f"There is nothing to limit for {settings}: the task {task} measures {names or 'nothing'}. "
                "Drop the limit, or give the data that it needs."
            )

    def check(self, metrics: Sequence[Metric]) -> Iterator[Gate]:
        """Hold metrics against the limits; where a metric has no value, its gate fails.

        Args:
            metrics: of one evaluation, or of the outputs of one comparison.
        """
        for name, limit in self.chosen.items():
            concerned = [metric for metric in metrics if _concerns(name, metric)]
            values = [_limited(name, metric, limit) for metric in concerned]
            known = [value for value in values if value is not None]
            worst = min if name.startswith("min") else max
            measured = worst(known) if known and len(known) == len(values) else None
            passed = measured is not None and worst(measured, limit.value) == limit.value
            missing = [metric for metric, value in zip(concerned, values, strict=True) if value is None]
            note = _why(missing) if measured is None else _about(name, concerned, measured)
            yield Gate(name.replace("_", "-"), limit.value, measured, passed, limit.relative, note)


_METRICS = {
    "max_ppl_increase": "perplexity",
    "max_kl": "kl",
    "min_cosine": "cosine",
    "max_error": "relative_mse",
    "min_speedup": "speedup",
}


def _concerns(name: str, metric: Metric) -> bool:
    return metric.higher_is_better is True if name == "max_drop" else metric.name == _METRICS[name]


def _limited(name: str, metric: Metric, limit: Limit) -> float | None:
    """What of a metric is limited: its value, or how much worse than the baseline's it is."""
    if name not in OF_CHANGES:
        return metric.value
    change = metric.relative_difference if limit.relative else metric.difference
    return -change if name == "max_drop" and change is not None else change


def _about(name: str, metrics: Sequence[Metric], measured: float) -> str:
    """Of a speed-up, of what the figure is the bound."""
    told = (metric.note or "" for metric in metrics if metric.value == measured)
    return next(told, "") if name == "min_speedup" else ""


def _why(metrics: Sequence[Metric]) -> str:
    """Why there is nothing to hold against a limit."""
    return "; ".join(dict.fromkeys(metric.note for metric in metrics if metric.note)) or NOTHING_MEASURED
