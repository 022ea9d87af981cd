"""The quantized nodes of a report one by one, with the figures that charts and comparisons need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnxfq.reports.report import Report, TargetReport

WORST = 5


@dataclass(frozen=True, slots=True)
class Layer:
    """One quantized node.

    Attributes:
        number: from 1, in the order of the network.
        target: what the report says.
        bits: true bits a weight, scales and zero points included.
    """

    number: int
    target: TargetReport
    bits: float

    @property
    def name(self) -> str:
        """The node's, after its file's where there are several."""
        return f"{self.target.model}: {self.target.name}" if self.target.model else self.target.name

    @property
    def format(self) -> str:
        """Bits a code and what shares a scale: `4/32`, `8/channel`."""
        return f"{self.target.bits}/{self.target.granularity}"

    @property
    def measured(self) -> bool:
        """Whether the error is that of the output in calibration, rather than of the weights."""
        return self.target.output_error is not None

    @property
    def error(self) -> float | None:
        """Of the output in calibration where that was measured, else of the weights."""
        return self.target.output_error if self.measured else self.target.relative_error


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Quantized nodes of one operator and format.

    Attributes:
        operator: what runs them.
        bits: bits a code.
        granularity: what shares a scale.
        layers: the nodes.
    """

    operator: str
    bits: int
    granularity: int | str
    layers: tuple[Layer, ...]

    def __str__(self) -> str:
        """For people: `MatMulNBits, 4 bits, block 32`."""
        return f"{self.operator}, {self.format}"

    @property
    def format(self) -> str:
        """Without the operator: `4 bits, block 32`."""
        shared = f"block {self.granularity}" if isinstance(self.granularity, int) else f"per {self.granularity}"
        return f"{self.bits} bits, {shared}"

    @property
    def float_bytes(self) -> int:
        """Of their weights in the source, those shared counted once."""
        return sum(layer.target.float_bytes for layer in self.layers if not layer.target.shares)

    @property
    def bytes(self) -> int:
        """Of their codes, scales and zero points."""
        return sum(layer.target.bytes for layer in self.layers)


def groups_of(layers: Iterable[Layer]) -> list[LayerGroup]:
    """Layers by operator and format, the largest group first."""
    found: dict[tuple[str, int, int | str], list[Layer]] = {}
    for layer in layers:
        target = layer.target
        found.setdefault((target.operator, target.bits, target.granularity), []).append(layer)
    groups = [LayerGroup(*kind, tuple(members)) for kind, members in found.items()]
    return sorted(groups, key=lambda group: -group.float_bytes)


def layers_of(report: Report) -> list[Layer]:
    """All quantized nodes; those that share a weight have the bits of the one that stores it."""
    stored = {(t.model, t.name): t.bytes for t in report.targets}
    return [
        Layer(number, t, 8 * (stored.get((t.model, t.shares), 0) if t.shares else t.bytes) / (t.n * t.k))
        for number, t in enumerate(report.targets, start=1)
    ]


def worst_of(layers: Iterable[Layer]) -> list[Layer]:
    """A few with the largest error, worst first; where some errors are those of outputs, only those are compared."""
    known = [(layer.error, layer) for layer in layers if layer.error is not None]
    if any(layer.measured for _, layer in known):
        known = [(error, layer) for error, layer in known if layer.measured]
    count = min(WORST, -(-len(known) // 3))
    return [layer for error, layer in sorted(known, key=lambda pair: -pair[0])[:count] if error > 0.0]


def bins_of(layers: Sequence[Layer], most: int) -> list[Sequence[Layer]]:
    """Neighbours together, so that there are at most so many groups."""
    step = -(-len(layers) // most) if layers else 1
    return [layers[start : start + step] for start in range(0, len(layers), step)]
