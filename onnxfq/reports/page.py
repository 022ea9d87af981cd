"""Reports as one self-contained page: no network, no pixels, and nothing from a model that a browser would obey."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import PurePath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from onnxfq.reports.bands import is_cache, worst_cache
from onnxfq.reports.charts import bits_chart, change_chart, error_chart, range_chart
from onnxfq.reports.compare import ReportComparison
from onnxfq.reports.contents import REST, SMALL
from onnxfq.reports.figures import cosine_text, figure_text, share_text, uncertain_text
from onnxfq.reports.layers import LayerGroup, groups_of, layers_of, worst_of
from onnxfq.reports.parts import Part, parts_of
from onnxfq.reports.recipe import FROM_PYTHON, command_line, python_call
from onnxfq.reports.report import Report, SkipReport
from onnxfq.reports.verdict import in_sample_text, verdict
from onnxfq.system.terminal import printable, shortened, size_text

NOTHING = "–"
LONGEST_NAME = 1000  # characters that are shown; JSON has them all
MOST_NAMES = 500  # listed for one reason; JSON has them all
FEW_ROWS = 12  # a longer table is folded
MOST_PRINTED = 100  # rows of a folded table that are unfolded on paper


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of the output's files in a drawing."""

    part: Part
    share: float
    start: float
    series: str


@dataclass(frozen=True, slots=True)
class Reason:
    """Nodes that were left alone for one reason."""

    text: str
    nodes: Sequence[SkipReport]

    @property
    def bytes(self) -> int:
        """Of their weights."""
        return sum(node.float_bytes for node in self.nodes)


def report_page(report: Report) -> str:
    """A whole HTML document about a run."""
    layers = layers_of(report)
    worst = worst_of(layers)
    ranges = (
        range_chart("weights", "Weights of each layer", layers, lambda layer: layer.target.weights),
        range_chart(
            "activations", "Inputs of each layer in calibration", layers, lambda layer: layer.target.activations
        ),
    )
    reasons, groups = _reasons(report.skipped), groups_of(layers)
    return _render(
        "report.html.j2",
        report=report,
        verdict=verdict(report),
        in_sample=in_sample_text(report),
        name=PurePath(report.output or report.source).name or report.source,
        layers=layers,
        worst=worst,
        measured=any(layer.measured for layer in layers),
        errors=[layer.error for layer in layers if layer.error is not None],
        error_chart=error_chart(layers, worst),
        bits_chart=bits_chart(layers, worst),
        range_charts=[c for c in ranges if c],
        common=_common(report, groups),
        kinds=sorted({t.op_type for t in report.targets} | {s.op_type for s in report.skipped}),
        reasons=reasons,
        slices=_slices(report),
        caches=[o for o in report.outputs if is_cache(o)],
        worst_cache=worst_cache(report.outputs),
        command=command_line(report),
        call=python_call(report),
        from_python=report.settings.get("calib") == FROM_PYTHON,
    )


def comparison_page(comparison: ReportComparison) -> str:
    """A whole HTML document about several runs."""
    chart = change_chart([layer.name for layer in comparison.layers], [layer.ratios[1:] for layer in comparison.layers])
    return _render("compare.html.j2", comparison=comparison, chart=chart)


def _reasons(skipped: Iterable[SkipReport]) -> list[Reason]:
    """The most weighty first, then the most frequent."""
    groups: dict[str, list[SkipReport]] = {}
    for skip in skipped:
        groups.setdefault(skip.reason, []).append(skip)
    reasons = [Reason(text, nodes) for text, nodes in groups.items()]
    return sorted(reasons, key=lambda reason: (-reason.bytes, -len(reason.nodes)))


def _common(report: Report, groups: Sequence[LayerGroup]) -> dict[str, str]:
    """What is said of all layers at once; "" where they differ, and each has to say it."""
    facts = {
        "algorithm": {t.algorithm for t in report.targets},
        "weighted": {t.weighted for t in report.targets},
        "operator": {group.operator for group in groups},
        "format": {group.format for group in groups},
        "scheme": {t.scheme or report.scheme for t in report.targets},
    }
    return {name: next(iter(values)) if len(values) == 1 else "" for name, values in facts.items()}


def _slices(report: Report) -> list[Slice]:
    """What the output's files consist of, each part where it is drawn."""
    parts = parts_of(report)
    total = max(report.size.output_bytes, sum(part.after for part in parts), 1)
    slices, start = [], 0.0
    for index, part in enumerate(parts):
        share = part.after / total
        series = "part0" if part.quantized else "rest" if part.name in (SMALL, REST) else f"part{1 + index % 3}"
        slices.append(Slice(part, share, start, series))
        start += share
    return slices


@cache
def _environment() -> Environment:
    """Everything that is written is escaped, and before that made harmless as for a terminal."""
    environment = Environment(
        loader=PackageLoader("onnxfq.reports"),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "size": size_text, "figure": _or_nothing(figure_text), "cosine": _or_nothing(cosine_text),
        "share": _or_nothing(share_text), "uncertain": _or_nothing(uncertain_text), "percent": _percent, "name": _name,
        "breaks": _breaks, "mille": _mille,
    }  # fmt: skip
    environment.tests["known_for"] = lambda name, rows: _any(rows, name)
    environment.globals |= {"FEW_ROWS": FEW_ROWS, "MOST_PRINTED": MOST_PRINTED, "MOST_NAMES": MOST_NAMES}
    return environment


def _render(template: str, **values: Any) -> str:
    style, script = (Markup(_text(name)) for name in ("page.css", "page.js"))
    return _environment().get_template(template).render(style=style, script=script, script_hash=_hash(script), **values)


def _text(name: str) -> str:
    return (files("onnxfq.reports") / "templates" / name).read_text(encoding="utf-8").strip()


def _hash(script: str) -> str:
    """By which a browser knows the one script that it may run."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _any(rows: Iterable[object], name: str) -> bool:
    """Whether a column has anything in it: text, or a figure, be it 0.0; a count of 0 is nothing."""
    values = (getattr(row, name) for row in rows)
    return any(value or isinstance(value, float) for value in values)


def _shown(value: object) -> object:
    if isinstance(value, Markup):
        return value
    return NOTHING if value is None else printable(str(value))


def _or_nothing(text: Callable[..., str]) -> Callable[..., str]:
    """The same, with a dash for a figure that is not known."""
    return lambda value, *given: NOTHING if value is None else text(value, *given)


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1%}"


def _name(text: str) -> str:
    cut = len(text) - LONGEST_NAME
    return text if cut <= 0 else f"{shortened(text, LONGEST_NAME)} ({cut} characters left out)"


def _breaks(text: str) -> Markup:
    """Names of nodes break behind slashes, where they must, rather than inside words."""
    return Markup("/<wbr>").join(printable(text).split("/"))


def _mille(share: float) -> str:
    """A share as a coordinate of a drawing that is 1000 wide."""
    return f"{1000 * max(0.0, min(1.0, share)):.1f}".removesuffix(".0")
