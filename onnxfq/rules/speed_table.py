"""How fast formats are relative to floating point, by width and rows: as measured on one kind of processor."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from onnxfq.arrays import Float64Array
from onnxfq.errors import DataError
from onnxfq.scheme import Activations, Granularity, Scheme
from onnxfq.weight_formats import FORMATS, USUAL_FORMAT

TABLE_VERSION = 1
NARROWEST = 0.5  # times the narrowest width measured, below which nothing is known
Figures = tuple[tuple[float, ...], ...]  # by width, then by rows


class MeasuredFormat(NamedTuple):
    """What decides how fast a product is.

    Attributes:
        format: what is written: "matmulnbits", "int8", …
        bits: of a weight.
        block_size: weights that share a scale.
        symmetric: without zero points.
        activations: "int8" where they are rounded on the fly.
    """

    format: str
    bits: int
    block_size: int | Granularity
    symmetric: bool
    activations: Activations

    @classmethod
    def of(cls, scheme: Scheme) -> MeasuredFormat:
        """Of a scheme."""
        return cls(scheme.format, scheme.bits, scheme.block_size, scheme.symmetric, scheme.activations)

    def __str__(self) -> str:
        """For people: `4/32`, bits and block, and what is unusual."""
        unusual = [] if self.format == USUAL_FORMAT else [self.format]
        unusual += ["symmetric"] * (self.symmetric and not unusual) + ["float inputs"] * (self.activations == "float")
        return " ".join((f"{self.bits}/{self.block_size}", *unusual))

    @property
    def kernel(self) -> tuple[str, int, str]:
        """Equal for formats that differ in what matters little."""
        runs_as = next((known.runs_as for name, known in FORMATS.items() if name == self.format), "") or self.format
        return runs_as, 8 if runs_as == "int8" else self.bits, self.activations

    def distance(self, other: MeasuredFormat) -> float:
        """How unlike two of a kernel are: steps of block size, then zero points."""
        sizes = [one.block_size if isinstance(one.block_size, int) else 256 for one in (self, other)]
        return abs(math.log2(sizes[0] / sizes[1])) + 0.1 * (self.symmetric != other.symmetric)


@dataclass(frozen=True, slots=True)
class SpeedTable:
    """How many times as fast as a float MatMul products are, by format, on one kind of processor.

    Attributes:
        instructions: what the processor has for products of small integers (`system.processor`).
        source: where the figures come from, for people.
        processor: that it was measured on.
        runtime: the version of ONNX Runtime.
        widths: of the square weights that were measured, ascending.
        rows: of the activations, ascending.
        float_us: microseconds of the float MatMul.
        formats: times faster than that.
    """

    instructions: str
    source: str
    processor: str
    runtime: str
    widths: tuple[int, ...]
    rows: tuple[int, ...]
    float_us: Figures
    formats: Mapping[MeasuredFormat, Figures]

    def times_faster(self, scheme: Scheme, n: int, k: int, rows: Sequence[int]) -> float | None:
        """How many times as fast as in float a product with a weight [n, k] is, the same tokens for each of `rows`.

        Between what was measured it is interpolated, beyond it is taken to stay as it is; None where nothing is known
        of the format, or the weight is much smaller than any that was measured.
        """
        figures = self._figures(scheme)
        width = math.sqrt(n * k)
        if figures is None or width < NARROWEST * self.widths[0]:
            return None
        floats = [self._at(self.float_us, width, count) / count for count in rows]
        ours = [time / self._at(figures, width, count) for time, count in zip(floats, rows, strict=True)]
        return sum(floats) / sum(ours)

    def float_seconds(self, n: int, k: int, rows: Sequence[int]) -> float:
        """What a token costs in float with a weight [n, k], summed over `rows`: to weigh weights by."""
        width = math.sqrt(n * k)
        known = max(width, float(self.widths[0]))
        share = n * k / min(known, float(self.widths[-1])) ** 2
        return 1e-6 * share * sum(self._at(self.float_us, known, count) / count for count in rows)

    def _figures(self, scheme: Scheme) -> Figures | None:
        """Of a scheme, or of the nearest that runs through the same kernel and was measured."""
        wanted = MeasuredFormat.of(scheme)
        alike = [other for other in self.formats if other.kernel == wanted.kernel]
        nearest = min(alike, key=wanted.distance, default=None)
        return None if nearest is None else self.formats[nearest]

    def _at(self, figures: Figures, width: float, rows: int) -> float:
        """A figure between those that were measured, on logarithmic scales."""
        values: Float64Array = np.log(np.asarray(figures, np.float64))
        by_width = [np.interp(math.log(rows), np.log(self.rows), of_width) for of_width in values]
        return float(math.exp(np.interp(math.log(width), np.log(self.widths), by_width)))

    def to_json(self) -> dict[str, Any]:
        """A JSON object for `from_json`."""
        told = {name: getattr(self, name) for name in ("instructions", "source", "processor", "runtime")}
        measured = {name: getattr(self, name) for name in ("widths", "rows", "float_us")}
        formats = [{**of._asdict(), "times_faster": figures} for of, figures in self.formats.items()]
        return {"version": TABLE_VERSION, **told, **measured, "formats": formats}

    @classmethod
    def from_json(cls, value: Any) -> SpeedTable:  # noqa: ANN401 - whatever a file holds
        """A table from what `to_json` gave.

        Raises:
            DataError: it is no such table.
        """
        try:
            if value["version"] != TABLE_VERSION:
                raise DataError(
                    f"A table of speeds of another version (got {value['version']}, wanted {TABLE_VERSION})."
                )
            told = {name: str(value[name]) for name in ("instructions", "source", "processor", "runtime")}
            widths, rows = (tuple(int(size) for size in value[name]) for name in ("widths", "rows"))
            formats = {_format(row): _read(row["times_faster"], widths, rows) for row in value["formats"]}
            figures = _read(value["float_us"], widths, rows)
            return cls(**told, widths=widths, rows=rows, float_us=figures, formats=formats)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"Not a table of speeds ({error}).") from error

    @classmethod
    def load(cls, path: Path) -> SpeedTable:
        """Read a table.

        Raises:
            DataError: the file holds none.
            OSError: it cannot be read.
        """
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, RecursionError) as error:
            raise DataError(f"Not a table of speeds: no JSON ({error}).") from error


def _format(row: Mapping[str, Any]) -> MeasuredFormat:
    return MeasuredFormat(**{name: value for name, value in row.items() if name != "times_faster"})


def _read(figures: Sequence[Sequence[float]], widths: Sequence[int], rows: Sequence[int]) -> Figures:
    """Figures of a file.

    Raises:
        ValueError: they are not positive numbers, one for each width and count of rows.
    """
    array = np.asarray(figures, np.float64)
    if array.shape != (len(widths), len(rows)) or not array.size or not (np.isfinite(array) & (array > 0)).all():
        raise ValueError("a figure for each width and count of rows is wanted, all above 0")
    if list(widths) != sorted(set(widths)) or list(rows) != sorted(set(rows)) or widths[0] < 1 or rows[0] < 1:
        raise ValueError("widths and rows must ascend")
    return tuple(tuple(map(float, of_width)) for of_width in array)
