"""Charts as geometry: where marks stand, from 0 to 1 both ways, and what they say. A template draws them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from onnxfq.reports.axes import Axis, Tick, linear_axis, log_axis, order_axis, range_axis
from onnxfq.reports.figures import figure_text
from onnxfq.reports.layers import Layer, bins_of
from onnxfq.system.terminal import shortened

MOST_MARKS = 300  # more are grouped: a screen has no room, and a page would become large
NEAR = (0.04, 0.1)  # pins closer than this would cover each other
WIDTH, HEIGHT = 0.022, 0.035  # of a dot, in parts of a chart

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Mark:
    """A dot, or a line from low to high.

    Attributes:
        x: from the left.
        low: the lower end, from below.
        high: the upper end, where a line has its dot.
        text: what it says when it is pointed at.
        series: how it is drawn.
    """

    x: float
    low: float
    high: float
    text: str
    series: str = "measured"

    @property
    def is_dot(self) -> bool:
        """Whether it is a point and no line."""
        return self.low == self.high


@dataclass(frozen=True, slots=True)
class Pin:
    """A number beside a mark."""

    x: float
    y: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """What a template needs to draw one.

    Attributes:
        name: unique on a page.
        title: what it shows.
        text: the same in a sentence, for those who cannot see it.
        x_title: what is to the right.
        y_title: what is above.
        x_ticks: values below.
        y_ticks: values on the left.
        marks: in the order in which they are drawn.
        pins: numbers of marks that are named in the text.
        legend: (series, what it is); empty where there is only one.
    """

    name: str
    title: str
    text: str
    x_title: str
    y_title: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    marks: Sequence[Mark]
    pins: Sequence[Pin] = ()
    legend: Sequence[tuple[str, str]] = ()


def error_chart(layers: Sequence[Layer], worst: Sequence[Layer]) -> Chart | None:
    """Errors in the order of the network; None where none is known, or all are the same."""
    known = [layer for layer in layers if layer.error is not None]
    if _alike(map(_error, known)):
        return None
    x, y = order_axis(len(layers)), log_axis([_error(layer) for layer in known])
    marks = [_error_mark(group, x, y, set(map(id, worst))) for group in bins_of(known, MOST_MARKS)]
    text = f"Errors of {len(known)} layers, from {_least(known)} to {_largest(known)}."
    step = len(known) / len(marks)
    text += f" Each line stands for {step:.0f} layers or so, its dot for the worst of them." if step > 1 else ""
    title = "Error of each layer, in the order of the network"
    pins = _pins([(layer, x.place(layer.number), y.place(_error(layer))) for layer in worst])
    return Chart("errors", title, text, "layer", "error", x.ticks, y.ticks, marks, pins, _legend(known))


def bits_chart(layers: Sequence[Layer], worst: Sequence[Layer]) -> Chart | None:
    """Errors over true bits a weight; None where no error is known, or all errors or all bits are the same."""
    known = [layer for layer in layers if layer.error is not None]
    if _alike(map(_error, known)) or _alike(layer.bits for layer in known):
        return None
    x = linear_axis([layer.bits for layer in known], margin=1.0)
    y = log_axis([_error(layer) for layer in known])
    bad = set(map(id, worst))
    marks = []
    for layer in sorted(known, key=lambda layer: id(layer) in bad):
        at = y.place(_error(layer))
        marks.append(Mark(x.place(layer.bits), at, at, _says(layer), _series(layer, bad)))
    marks = _distinct(marks) if len(marks) > MOST_MARKS else _side_by_side(marks)
    lowest, highest = min(layer.bits for layer in known), max(layer.bits for layer in known)
    text = f"Errors of {len(known)} layers at {figure_text(lowest)} to {figure_text(highest)} bits a weight."
    title = "Error against bits a weight, scales and zero points included"
    return Chart("bits", title, text, "bits a weight", "error", x.ticks, y.ticks, marks, (), _legend(known))


def range_chart(
    name: str, title: str, layers: Sequence[Layer], ranges: Callable[[Layer], Range | None]
) -> Chart | None:
    """Smallest to largest value of each layer, in the order of the network; None where none is known, or all alike."""
    known = [(layer, pair) for layer in layers if (pair := ranges(layer)) is not None]
    if _alike(low for _, (low, _) in known) and _alike(high for _, (_, high) in known):
        return None
    pairs = {layer.number: pair for layer, pair in known}
    x, y = order_axis(len(layers)), range_axis(list(pairs.values()))
    marks = [_range_mark(group, pairs, x, y) for group in bins_of([layer for layer, _ in known], MOST_MARKS)]
    low, high = min(p[0] for p in pairs.values()), max(p[1] for p in pairs.values())
    widest, _ = max(known, key=lambda item: max(map(abs, item[1])))
    text = f"From {figure_text(low)} to {figure_text(high)}; the value farthest from zero is that of {_named(widest)}."
    return Chart(name, title, text, "layer", "value", x.ticks, y.ticks, marks)


def change_chart(names: Sequence[str], changes: Sequence[Sequence[float | None]]) -> Chart | None:
    """Errors of later runs relative to the first, layer by layer; None where no two differ.

    Args:
        names: of the layers.
        changes: of each layer, one ratio for each later run.
    """
    known = [ratio for row in changes for ratio in row if ratio is not None]
    if _alike(known):
        return None
    x, y = order_axis(len(names)), log_axis([*known, 0.5, 2.0])
    step = -(-len(names) // MOST_MARKS)
    marks = []
    for start in range(0, len(names), step):
        for run in range(len(changes[start])):
            group = [
                (ratio, n)
                for n in range(start, min(start + step, len(names)))
                if (ratio := changes[n][run]) is not None
            ]
            if group:
                ratio, n = max(group, key=lambda item: abs(y.place(item[0]) - y.place(1.0)))
                at = y.place(ratio)
                says = f"{_cut(names[n])}: {figure_text(ratio)}"
                marks.append(Mark(x.place(n + 1), at, at, says, f"run{run % 5 + 1}"))
    span = f"{figure_text(min(known))} to {figure_text(max(known))} times"
    text = f"Errors relative to run A, from {span}; below 1 is better than A."
    title = "Error of each layer relative to run A"
    return Chart("changes", title, text, "layer", "times A's error", x.ticks, y.ticks, marks)


def _alike(values: Iterable[float]) -> bool:
    """Whether a drawing of them would say nothing: there is none, or one, or all read the same."""
    return len({figure_text(value) for value in values}) < 2


def _error_mark(group: Sequence[Layer], x: Axis, y: Axis, worst: set[int]) -> Mark:
    top = max(group, key=_error)
    series = _series(top, worst)
    at, high = x.place((group[0].number + group[-1].number) / 2), y.place(_error(top))
    if len(group) == 1:
        return Mark(at, high, high, _says(top), series)
    text = f"layers {group[0].number} to {group[-1].number}, {_least(group)} to {_largest(group)}; {_says(top)}"
    return Mark(at, y.place(min(map(_error, group))), high, text, series)


def _range_mark(group: Sequence[Layer], pairs: dict[int, Range], x: Axis, y: Axis) -> Mark:
    low = min(pairs[layer.number][0] for layer in group)
    high = max(pairs[layer.number][1] for layer in group)
    last = f" to {group[-1].number}" if len(group) > 1 else ""
    text = f"{group[0].number}{last} {_named(group[0])}: {figure_text(low)} … {figure_text(high)}"
    return Mark(x.place((group[0].number + group[-1].number) / 2), y.place(low), y.place(high), text, "range")


def _pins(places: Sequence[tuple[Layer, float, float]]) -> list[Pin]:
    """Numbers 1, 2, … beside the worst marks, those left out that would cover an earlier one."""
    pins: list[Pin] = []
    for number, (_, x, y) in enumerate(places, start=1):
        if all(abs(pin.x - x) > NEAR[0] or abs(pin.y - y) > NEAR[1] for pin in pins):
            pins.append(Pin(x, y, str(number)))
    return pins


def _side_by_side(marks: Sequence[Mark]) -> list[Mark]:
    """Dots at the same place moved apart sideways, so that none hides another."""
    placed: list[Mark] = []
    for mark in marks:
        near = [m.x for m in placed if abs(m.high - mark.high) < HEIGHT]
        steps = (mark.x + side * WIDTH * step for step in range(len(marks)) for side in (1, -1))
        x = next((x for x in steps if all(abs(other - x) > 0.9 * WIDTH for other in near)), mark.x)
        placed.append(replace(mark, x=min(1.0, max(0.0, x))))
    return placed


def _distinct(marks: Sequence[Mark]) -> list[Mark]:
    """Without marks that cover each other, and without texts, which nobody could point at."""
    places = {(round(m.x, 3), round(m.high, 2), m.series): m for m in marks}
    return [m if m.series == "worst" else Mark(m.x, m.low, m.high, "", m.series) for m in places.values()]


def _legend(known: Sequence[Layer]) -> list[tuple[str, str]]:
    kinds = {layer.measured for layer in known}
    words = {True: ("measured", "of the output, in calibration"), False: ("weights", "of the weights, without data")}
    return [words[kind] for kind in (True, False)] if len(kinds) > 1 else []


def _series(layer: Layer, worst: set[int]) -> str:
    if id(layer) in worst:
        return "worst"
    return "measured" if layer.measured else "weights"


def _says(layer: Layer) -> str:
    return f"{_named(layer)}: {figure_text(_error(layer))}, {figure_text(layer.bits)} bits a weight"


def _named(layer: Layer) -> str:
    return _cut(layer.name)


def _cut(name: str) -> str:
    return shortened(name, 120)


def _error(layer: Layer) -> float:
    return max(0.0, layer.error or 0.0)


def _least(layers: Sequence[Layer]) -> str:
    return figure_text(min(map(_error, layers)))


def _largest(layers: Sequence[Layer]) -> str:
    return figure_text(max(map(_error, layers)))
