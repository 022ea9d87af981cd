"""Several runs side by side: what each gained and cost, in which layers they differ, and which settings did it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from onnxfq.errors import UsageError
from onnxfq.metrics.metric import Metric
from onnxfq.reports.figures import figure_text, overlap, share_text, uncertain_text
from onnxfq.reports.formats import writer_of
from onnxfq.reports.layers import Layer, layers_of
from onnxfq.reports.report import JSON_VERSION, Report
from onnxfq.reports.verdict import Verdict, verdict
from onnxfq.system.terminal import size_text

Better = Literal["less", "more", ""]
Unit = Literal["bytes", "fraction", "bits", "ms", "times", "s", "nodes", ""]

_TEXTS: dict[str, Callable[[float], str]] = {
    "bytes": size_text,
    "fraction": share_text,
    "bits": "{:.2f}".format,
    "ms": lambda value: f"{figure_text(value)} ms",
    "times": "{:.2f}x".format,
    "s": lambda value: f"{figure_text(value)} s",
    "nodes": "{:.0f}".format,
    "": figure_text,
}


@dataclass(frozen=True, slots=True)
class Run:
    """One of the runs compared; its label is a letter."""

    label: str
    path: str
    report: Report

    @property
    def verdict(self) -> Verdict:
        """What it came to."""
        return verdict(self.report)


@dataclass(frozen=True, slots=True)
class ComparedMetric:
    """One figure of every run, None where a run has none.

    Attributes:
        name: of the figure.
        unit: of the values.
        better: which of them are; "" where none is, or they cannot be set against each other.
        values: one a run.
        low: the lower end of each value's interval; empty where no run has one.
        high: the upper end.
    """

    name: str
    unit: Unit
    better: Better
    values: tuple[float | None, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()

    @property
    def texts(self) -> list[str]:
        """For people."""
        return ["" if value is None else self._text(value, index) for index, value in enumerate(self.values)]

    def _text(self, value: float, index: int) -> str:
        low, high = self._interval(index, value)
        return _TEXTS[self.unit](value) if self.unit or high <= low else uncertain_text(value, (high - low) / 4)

    @property
    def best(self) -> list[bool]:
        """Which runs have the best figure; none where all read the same, or another may be as good."""
        known = [value for value in self.values if value is not None]
        nobody = [False] * len(self.values)
        if not self.better or len(set(filter(None, self.texts))) < 2:
            return nobody
        best = min(known) if self.better == "less" else max(known)
        ranges = {value: self._interval(i, value) for i, value in enumerate(self.values) if value is not None}
        if overlap([ranges.pop(best), *ranges.values()]):
            return nobody
        return [value == best for value in self.values]

    def _interval(self, index: int, value: float) -> tuple[float, float]:
        """In which the value lies; nothing but itself where that is not known."""
        low, high = (ends[index] if ends else None for ends in (self.low, self.high))
        return (value if low is None else low, value if high is None else high)


@dataclass(frozen=True, slots=True)
class LayerChange:
    """A quantized node in every run.

    Attributes:
        number: from 1, in the order of the network.
        name: the node's, after its file's where there are several.
        measure: "output" where every run that has the node measured the error of its output, else "weights".
        errors: of each run; None where it did not quantize the node or does not know.
        bits: true bits a weight in each run; None where it did not quantize the node.
        formats: bits a code and what shares a scale, `4/32`; None where it did not quantize the node.
        ratios: each error relative to the first run's; None where either is not known, or the first is 0.
    """

    number: int
    name: str
    measure: Literal["output", "weights"]
    errors: tuple[float | None, ...]
    bits: tuple[float | None, ...]
    formats: tuple[str | None, ...]
    ratios: tuple[float | None, ...]

    @property
    def change(self) -> float:
        """How far the runs are apart: 0 where they are alike, infinite where only some quantized the node."""
        if len({bits is None for bits in self.bits}) > 1:
            return math.inf
        known = [error for error in self.errors if error is not None]
        if len(known) < 2 or max(known) == min(known):
            return 0.0
        return math.log(max(known)) - math.log(min(known)) if min(known) > 0.0 else math.inf


@dataclass(frozen=True, slots=True)
class ReportComparison:
    """Runs side by side.

    Attributes:
        runs: in the order in which they were given; the first is what others are compared with.
        figures: size, accuracy, speed.
        settings: (name, value of each run as text) of those that differ.
        layers: in the order of the network.
        remarks: what to know before comparing.
    """

    runs: tuple[Run, ...]
    figures: tuple[ComparedMetric, ...]
    settings: tuple[tuple[str, tuple[str, ...]], ...]
    layers: tuple[LayerChange, ...]
    remarks: tuple[str, ...]

    @property
    def changed(self) -> list[LayerChange]:
        """Layers that differ, the largest change first."""
        return sorted((layer for layer in self.layers if layer.change > 0.0), key=lambda layer: -layer.change)

    def to_json(self) -> dict[str, Any]:
        """A JSON object, as `onnxfq/reports/report.schema.json` describes it under `$defs/comparison`."""
        return {
            "version": JSON_VERSION,
            "runs": [
                {"label": r.label, "path": r.path, "verdict": r.verdict.kind, "source": r.report.source,
                 "output": r.report.output, "scheme": r.report.scheme, "algorithm": r.report.algorithm}
                for r in self.runs
            ],
            "figures": [asdict(figure) for figure in self.figures],
            "settings": [{"name": name, "values": list(values)} for name, values in self.settings],
            "layers": [asdict(layer) for layer in self.layers],
            "remarks": list(self.remarks),
        }  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Write the comparison, whole or not at all: as JSON or as a page, whichever the name ends in.

        Raises:
            UsageError: the name ends neither in .json nor in .html.
            OutputError: the file cannot be written.
        """
        writer_of(Path(path))(self, Path(path))


def compare_reports(paths: Sequence[str | Path], reports: Sequence[Report]) -> ReportComparison:
    """Put reports side by side.

    Args:
        paths: where each comes from.
        reports: two or more.

    Raises:
        UsageError: fewer than two.
    """
    if len(reports) < 2:
        raise UsageError(f"A comparison needs two reports or more (got {len(reports)}).")
    runs = [Run(_letter(i), str(path), r) for i, (path, r) in enumerate(zip(paths, reports, strict=True))]
    layers = tuple(_layers(reports))
    return ReportComparison(
        tuple(runs), tuple(_figures(reports)), tuple(_settings(reports)), layers, tuple(_remarks(runs, layers))
    )


def _letter(index: int) -> str:
    """The label of a run: A, B, …, Z, AA, AB, …."""
    return (_letter(index // 26 - 1) if index >= 26 else "") + chr(ord("A") + index % 26)


def _figures(reports: Sequence[Report]) -> Iterator[ComparedMetric]:
    """Size, accuracy, speed; no figure is better where it was measured on something else."""

    def figure(name: str, unit: Unit, better: Better, of: Callable[[Report], float | None]) -> ComparedMetric:
        return ComparedMetric(name, unit, better, tuple(of(report) for report in reports))

    same = _same_inputs(reports)
    less: Better = "less" if same else ""
    more: Better = "more" if same else ""
    yield figure("file size", "bytes", "less", lambda r: r.size.output_bytes)
    yield figure("of the original", "fraction", "less", lambda r: r.size.ratio)
    yield figure("bits a quantized weight", "bits", "less", lambda r: r.size.bits_per_weight or None)
    yield figure("weights left in floating point", "bytes", "less", _left_bytes)
    yield figure("nodes quantized", "nodes", "", lambda r: len(r.targets))
    yield figure("largest relative MSE", "", less, _largest_error)
    for name in dict.fromkeys(o.name for r in reports for o in r.outputs if o.kl is not None):
        yield figure(f"KL, {name}", "", less, lambda r, name=name: _of_output(r, name, "kl"))  # type: ignore[misc]
        yield figure(f"top-1, {name}", "fraction", more, lambda r, name=name: _of_output(r, name, "top1"))  # type: ignore[misc]
    yield _perplexity(reports)
    for case in dict.fromkeys(x.label for r in reports for x in r.latency):
        yield figure(f"time, {case}", "ms", "", lambda r, case=case: _of_case(r, case, "candidate_ms"))  # type: ignore[misc]
        speedup = figure(f"speed-up, {case}", "times", more, lambda r, case=case: _of_case(r, case, "speedup"))  # type: ignore[misc]
        low, high = (tuple(_of_case(r, case, end) for r in reports) for end in ("low", "high"))
        yield replace(speedup, low=low, high=high)
    yield figure("time of the run", "s", "", lambda r: r.seconds)


def _same_inputs(reports: Sequence[Report]) -> bool:
    """Whether all that were compared were so on the same inputs, and come from originals of the same size."""
    return len(_measured_on(reports)) < 2 and len({report.size.source_bytes for report in reports}) < 2


def _measured_on(reports: Iterable[Report]) -> set[tuple[str, str, int]]:
    """What the errors were measured on: where inputs come from, what they are to calibration, how many they are."""
    return {(r.inputs, r.measured_on, max((o.samples for o in r.outputs), default=0)) for r in reports if r.inputs}


def _left_bytes(report: Report) -> float | None:
    left = sum(row.bytes for row in report.contents if row.is_float_weight)
    return left if report.contents else None


def _perplexity(reports: Sequence[Report]) -> ComparedMetric:
    """With the interval of its difference from the original's, on the same texts."""
    values = [_largest(report.language) for report in reports]
    errors = [max((m.difference_error or 0.0 for m in report.language), default=0.0) for report in reports]
    low, high = (
        tuple(None if v is None else v + side * 2 * e for v, e in zip(values, errors, strict=True)) for side in (-1, 1)
    )
    texts = {metric.note for report in reports for metric in report.language}
    same = len(texts) < 2 and len({report.size.source_bytes for report in reports}) < 2
    return ComparedMetric("perplexity", "", "less" if same else "", tuple(values), low, high)


def _largest_error(report: Report) -> float | None:
    return max((o.relative_mse for o in report.outputs if o.relative_mse is not None), default=None)


def _largest(figures: Sequence[Metric]) -> float | None:
    known = [figure.value for figure in figures if figure.value is not None]
    return max(known) if len(known) == len(figures) and known else None


def _of_output(report: Report, name: str, figure: str) -> float | None:
    return next((getattr(o, figure) for o in report.outputs if o.name == name), None)


def _of_case(report: Report, case: str, figure: str) -> float | None:
    return next((getattr(x, figure) for x in report.latency if x.label == case), None)


def _settings(reports: Sequence[Report]) -> Iterator[tuple[str, tuple[str, ...]]]:
    facts = [
        {
            "source": r.source, **r.settings, "solver": r.algorithm, "provider": r.provider,
            "calibration data": r.calibration or "none", "inputs of the comparison": r.inputs or "none",
            "onnxfq": r.onnxfq_version, "ONNX Runtime": r.runtime_version,
        }
        for r in reports
    ]  # fmt: skip
    for name in dict.fromkeys(name for fact in facts for name in fact):
        values = tuple(_text(fact.get(name)) for fact in facts)
        if len(set(values)) > 1:
            yield name, values


def _text(value: object) -> str:
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value)


def _layers(reports: Sequence[Report]) -> Iterator[LayerChange]:
    runs = [_by_name(report) for report in reports]
    for number, (name, turn) in enumerate(dict.fromkeys(key for run in runs for key in run), start=1):
        found = [run.get((name, turn)) for run in runs]
        measured = all(layer.measured for layer in found if layer)
        errors = [_error(layer, measured=measured) for layer in found]
        bits = tuple(layer.bits if layer else None for layer in found)
        formats = tuple(layer.format if layer else None for layer in found)
        ratios = tuple(_ratio(errors[0], error) for error in errors)
        yield LayerChange(number, name, "output" if measured else "weights", tuple(errors), bits, formats, ratios)


def _by_name(report: Report) -> dict[tuple[str, int], Layer]:
    """Nodes by name; the second of the same name, if there is one, is another node."""
    found: dict[tuple[str, int], Layer] = {}
    for layer in layers_of(report):
        turn = 0
        while (layer.name, turn) in found:
            turn += 1
        found[layer.name, turn] = layer
    return found


def _error(layer: Layer | None, *, measured: bool) -> float | None:
    if layer is None:
        return None
    return layer.target.output_error if measured else layer.target.relative_error


def _ratio(first: float | None, other: float | None) -> float | None:
    if first is None or other is None or (first <= 0.0 and other != first):
        return None
    ratio = 1.0 if first == other else other / first
    return ratio if math.isfinite(ratio) else None


def _remarks(runs: Sequence[Run], layers: Sequence[LayerChange]) -> Iterator[str]:
    sizes = {run.report.size.source_bytes for run in runs}
    if len(sizes) > 1:
        yield "The originals differ in size: these may be runs of different models."
    if len(_measured_on(run.report for run in runs)) > 1:
        yield "The outputs were compared on different inputs: their errors cannot be set against each other."
    some = sum(None in layer.bits for layer in layers)
    if some:
        yield f"{some} {'node is' if some == 1 else 'nodes are'} quantized in some of the runs only."
    mixed = any(t.output_error is not None for run in runs for t in run.report.targets)
    if mixed and any(layer.measure == "weights" for layer in layers):
        yield "Not every run was calibrated: errors of layers are those of weights, which calibration does not aim at."
    if any(run.report.latency for run in runs):
        yield "Times were measured in separate runs; speed-ups, each against its own original, are safer to compare."
