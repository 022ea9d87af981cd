"""Tables whose values are stored again as an output head: exporters that fold the Transpose of tied weights do that.

    Gather(table [rows, columns], ids)      MatMul(x, head [columns, rows]), head = tableᵀ in every value

They count as one weight, as if the head read the table through a Transpose. So does a table that is equal to another.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from onnxfq.graph import NUMPY_TYPES, Body
from onnxfq.packing import row_chunks
from onnxfq.rules import Rule, Target, Weight

_LOOKED_AT = 64  # values of a row, before whole weights are read


def tied(found: Sequence[tuple[Rule, Target]]) -> list[tuple[Rule, Target]]:
    """The same targets; one whose weight equals a table's in every value is that table's twin.

    Args:
        found: the targets.
    """
    tables: dict[Hashable, Target] = {}
    for rule, target in found:
        if rule.kind == "embeddings":
            tables.setdefault(target.key, target)
    twins: dict[Hashable, Target | None] = {}  # by the weight and the scope it is read in
    together = []
    for rule, target in found:
        at = target.key, target.node.body
        if at not in twins:
            twins[at] = _twin(list(tables.values()), target)
        together.append((rule, replace(target, twin=twins[at])))
    return together


def _twin(tables: Sequence[Target], target: Target) -> Target | None:
    """The first table with the same values, if that is another weight that the target's node can read."""
    for table in tables:
        if table.key == target.key:
            return None
        alike = (table.n, table.k) == (target.n, target.k) and target.alpha == 1.0
        if alike and _sees(target.node.body, table.weight.home) and _equal(table.matrix, target.matrix):
            return table
    return None


def _sees(body: Body, home: Body) -> bool:
    inner: Body | None = body
    while inner is not None and inner is not home:
        inner = inner.parent
    return inner is home


def _equal(one: Weight, other: Weight) -> bool:
    """Whether two weights have the same values; where they have not, some values of one row mostly tell."""
    row = one.n // 2
    first, second = _beginning(one, row), _beginning(other, row)
    if first is not None and second is not None and not np.array_equal(first, second):
        return False
    ours, theirs = one.read(), other.read()
    chunks = row_chunks(one.n, one.k)
    return all(np.array_equal(one.rows(ours, rows), other.rows(theirs, rows)) for rows in chunks)


def _beginning(weight: Weight, row: int) -> npt.NDArray[np.float32] | None:
    """The first values of a row; None where reading them alone is not simple."""
    leaf, way = weight.constant.leaf, weight.constant.way
    if leaf.piece is None or way.shaping or len(way.start) != 2:
        return None
    count, size = min(_LOOKED_AT, weight.k), leaf.piece.length // max(1, weight.n * weight.k)
    step, start = (weight.n, row) if weight.transposed else (1, row * weight.k)
    places = [leaf.piece.offset + (start + i * step) * size for i in range(count)]
    parts = [replace(leaf.piece, offset=place, length=size).read() for place in places]
    value = np.concatenate(parts).view(NUMPY_TYPES[leaf.type])
    return np.asarray(replace(way, start=(count,), shape=(count,)).apply(value), np.float32)
