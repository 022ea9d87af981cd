"""What the files of a run consist of, before and after: weights by format, what was left as it was, and the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnxfq.reports.contents import REST, SMALL
from onnxfq.reports.layers import groups_of, layers_of
from onnxfq.reports.report import Report

_MOST = 12  # parts of weights left alone; more are put together


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a run's files.

    Attributes:
        name: for people.
        before: bytes in the source.
        after: bytes in the output; 0 where its codes are another part's.
        quantized: whether this run quantized it.
    """

    name: str
    before: int
    after: int
    quantized: bool = False

    @property
    def is_shared(self) -> bool:
        """Whether nothing is stored for it beside what another part has."""
        return self.quantized and not self.after


def parts_of(report: Report) -> list[Part]:
    """All parts; of reports that do not hold the contents, the quantized ones alone."""
    quantized = [
        Part(f"{len(g.layers)}x {g.operator} {g.bits}-bit/{g.granularity}", g.float_bytes, g.bytes, quantized=True)
        for g in groups_of(layers_of(report))
    ]
    left = sorted(_left(report), key=lambda part: -part.after)
    if len(left) > _MOST:
        others = sum(part.after for part in left[_MOST - 1 :])
        left = [*left[: _MOST - 1], Part(f"weights of {len(left) - _MOST + 1} other kinds", others, others)]
    return [*quantized, *left, *_rest(report)]


def _left(report: Report) -> Iterator[Part]:
    """Weights that are what they were."""
    coded = sum(row.bytes for row in report.contents if row.is_quantized) - report.size.target_bytes
    if coded > 0:
        yield Part("quantized before", coded, coded)
    for row in report.contents:
        if row.is_float_weight:
            yield Part(str(row), row.bytes, row.bytes)


def _rest(report: Report) -> Iterator[Part]:
    before = {row.what: row.bytes for row in report.source_contents}
    for row in report.contents:
        if row.what in (SMALL, REST):
            yield Part(row.what, before.get(row.what, 0), row.bytes)
