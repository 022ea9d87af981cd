"""What a model's files consist of, as rows of a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

QUANTIZED, QUANTIZED_EMBEDDINGS = "quantized weights", "quantized embeddings"
EMBEDDINGS, EXPERTS, WEIGHTS, BATCHED = "embeddings", "experts' weights", "weights", "batched weights"
SMALL, REST = "norms, biases, constants", "graph, and the rest"


@dataclass(frozen=True, slots=True)
class Content:
    """A part of a model's files.

    Attributes:
        what: "quantized weights", "quantized embeddings"; in floating point: "embeddings" (rows of a table are looked
            up), "experts' weights" (matrices of a stack are), "weights", "batched weights" (of more than two
            dimensions, of MatMul); "norms, biases, constants"; "graph, and the rest".
        operator: the types of the nodes that read it; "" of the last two.
        bytes: in the files, what several share counted once.
    """

    what: str
    operator: str
    bytes: int

    def __str__(self) -> str:
        """For people: `LSTM weights`, `embeddings (Gather)`."""
        if self.what == WEIGHTS:
            return f"{self.operator} weights"
        return f"{self.what} ({self.operator})" if self.operator else self.what

    @property
    def is_quantized(self) -> bool:
        """Whether it is weights that are quantized."""
        return self.what in (QUANTIZED, QUANTIZED_EMBEDDINGS)

    @property
    def is_float_weight(self) -> bool:
        """Whether it is weights that are not quantized."""
        return self.what in (EMBEDDINGS, EXPERTS, WEIGHTS, BATCHED)


def together(parts: Iterable[Sequence[Content]]) -> tuple[Content, ...]:
    """The contents of several models as one, the largest first, the two that are no weights last."""
    sums: dict[tuple[str, str], int] = {}
    for content in (content for part in parts for content in part):
        key = content.what, content.operator
        sums[key] = sums.get(key, 0) + content.bytes
    rows = [Content(what, operator, count) for (what, operator), count in sums.items()]
    return tuple(sorted(rows, key=lambda row: ((row.what == SMALL) + 2 * (row.what == REST), -row.bytes)))


def largest(contents: Sequence[Content], total: int, most: int = 2) -> str:
    """The largest parts that are weights: `98 % of its bytes are LSTM weights, 1 % Conv weights`; "" without any."""
    weights = [row for row in contents if row.what not in (SMALL, REST) and 100 * row.bytes >= total][:most]
    told = [f"{100 * row.bytes // total} % {row}" for row in weights]
    return ", ".join(told).replace(" % ", " % of its bytes are ", 1)
