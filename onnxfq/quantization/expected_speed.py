"""How fast a model will be, by the tables of speeds: here, elsewhere, and in other formats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from onnxfq.feeds import Feeds, count_tokens, has_cache
from onnxfq.graph import Graph
from onnxfq.machines import Machine
from onnxfq.options import Options
from onnxfq.providers import facts
from onnxfq.quantization.assign import Planned
from onnxfq.reports.expectations import ExpectedSpeed
from onnxfq.rules import PRODUCT_RULES, Target
from onnxfq.rules.known_speeds import packaged, speeds_of
from onnxfq.rules.speed_table import SpeedTable
from onnxfq.scheme import Scheme
from onnxfq.usage import USAGES, Usage
from onnxfq.weight_formats import FORMATS, USUAL_FORMAT

TELLING = 1.15  # times as fast as what was chosen, from which another format is worth a word
_SMALLEST_GAIN = 1.05  # times as fast as float
_PRODUCTS = tuple(PRODUCT_RULES.values())


@dataclass(frozen=True, slots=True)
class Forecast:
    """What tables say about a model.

    Attributes:
        machine: that the file is made for.
        usage: how many rows its weights will meet at once.
        table: of the machine; None where nothing is known.
    """

    machine: Machine
    usage: Usage
    table: SpeedTable | None

    def times_faster(self, scheme: Scheme, target: Target) -> float | None:
        """How many times as fast as in float a product is; None where nothing is known."""
        known = self.table
        return None if known is None else known.times_faster(scheme, target.n, target.k, self.usage.rows)

    def word(self, planned: Planned) -> str:
        """A planned product's speed in a word of `Kernel.speed`; what is no product keeps its kernel's."""
        if planned.rule not in _PRODUCTS or planned.kernel.speed == "slow" or self.table is None:
            return planned.kernel.speed
        found = self.times_faster(planned.scheme, planned.target)
        return "unknown" if found is None else "fast" if found >= 1.0 else "slow"

    def expected(self, planned: Sequence[Planned]) -> tuple[ExpectedSpeed, ...]:
        """How all products of a model together fare on the machine that the file is made for, and on others."""
        tables = {"": self.table} if self.table is not None else {}
        if facts(self.machine.provider).host_memory:
            tables |= {name: table for name, table in packaged().items() if name != self.machine.instructions}
        pairs = [(p.target, p.scheme) for p in planned if p.rule in _PRODUCTS]
        found = ((name, table, _together(table, pairs, self.usage.rows)) for name, table in tables.items())
        return tuple(
            ExpectedSpeed(name or self.machine.title, table.instructions, self.usage.rows, times, table.source)
            for name, table, times in found
            if times is not None
        )

    def advice(self, planned: Sequence[Planned]) -> str:
        """Which format would be clearly faster for the products of a model; "" where none is, or nothing is known."""
        products = [p for p in planned if p.rule in _PRODUCTS]
        now = self._together([(p.target, p.scheme) for p in products])
        if now is None:
            return ""
        others = {s: self._together([(p.target, s) for p in products]) for s in _formats() if self._runs(s)}
        known = {scheme: times for scheme, times in others.items() if times is not None}
        best = max(known, key=lambda scheme: known[scheme], default=None)
        if best is None or known[best] < TELLING * now or known[best] < _SMALLEST_GAIN:
            return ""
        now_text, best_text = (f"{times:.2g}x" for times in (now, known[best]))
        assert self.table is not None
        return (
            f"FASTER: at {self.usage} ({self.usage.origin}) the products run at about {now_text} the speed of float, "
            f"and {_told(best)} they would at {best_text} ({self.table.instructions}, {self.table.source}): "
            f'{_remedy(best)}, or `format="auto"`, which chooses for each weight.'
        )

    def _runs(self, scheme: Scheme) -> bool:
        return scheme.format in self.machine.formats

    def _together(self, pairs: Sequence[tuple[Target, Scheme]]) -> float | None:
        return None if self.table is None else _together(self.table, pairs, self.usage.rows)


def forecast(graph: Graph, options: Options, machine: Machine, calibration: Feeds | None = None) -> Forecast:
    """What tables say about a model.

    Args:
        graph: the model.
        options: what was asked for.
        machine: that the file is made for.
        calibration: the samples that are known; a model with a cache meets a row at a time whatever they are, since
            texts are read whole and written a token after the other.
    """
    return Forecast(machine, _usage(graph, options, calibration), speeds_of(machine))


def _usage(graph: Graph, options: Options, calibration: Feeds | None) -> Usage:
    if options.usage is not None:
        return options.usage
    if has_cache(graph.signature):
        return Usage(USAGES["decode"], "decoding, one token after the other")
    tokens = count_tokens(calibration, graph.signature) if calibration is not None else None
    if tokens and calibration is not None:
        return Usage((max(1, round(tokens / len(calibration))),), "as in the data")
    return Usage(USAGES["encoder"], "usual for encoders")


def _together(table: SpeedTable, pairs: Iterable[tuple[Target, Scheme]], rows: Sequence[int]) -> float | None:
    """How many times as fast as in float products are together; None where nothing is known of one that counts."""
    before = after = unknown = 0.0
    for target, scheme in pairs:
        seconds = table.float_seconds(target.n, target.k, rows)
        times = table.times_faster(scheme, target.n, target.k, rows)
        before += seconds
        after += seconds / (times or 1.0)
        unknown += seconds if times is None else 0.0
    return before / after if after and unknown < 0.1 * before else None


def _formats() -> Iterator[Scheme]:
    """One scheme of each kind that somebody may be advised to take."""
    yield Scheme(4, 32)
    yield Scheme(8, 32)
    for name, known in FORMATS.items():
        if known.proposed:
            yield Scheme(format=name)


def _told(scheme: Scheme) -> str:
    return f"in the format {scheme.format}" if scheme.format != USUAL_FORMAT else f"with {scheme.bits} bits"


def _remedy(scheme: Scheme) -> str:
    return f'`format="{scheme.format}"`' if scheme.format != USUAL_FORMAT else f"`bits={scheme.bits}`"
