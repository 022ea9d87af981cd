"""Which sizes of its inputs a graph implies, where the inputs' own shapes leave them open.

The shapes of all values are followed through the graph as expressions of the open sizes, and what weights, tables of
positions, constant shapes and windows demand of them is collected as conditions, which `size_solver.py` solves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxfq.graph.bodies import Body
from onnxfq.graph.shape_call import Inferred
from onnxfq.graph.shape_walk import ShapeWalk
from onnxfq.graph.size_expressions import Expressions, Size
from onnxfq.graph.size_solver import solve
from onnxfq.signature import TensorSpec

_MOST_OPEN = 1000  # sizes
Fitting = tuple[int | None, ...]


def implied_sizes(specs: Sequence[TensorSpec], bodies: list[Body]) -> dict[str, Fitting]:
    """Sizes of the open axes of inputs, by the input's name; only of inputs of which something is known.

    Args:
        specs: the inputs that callers must feed.
        bodies: all scopes of the model, the main graph first.
    """
    names = {spec.name: _open(spec) for spec in specs}
    axes = {symbol: (spec, axis) for spec in reversed(specs) for axis, symbol in reversed(names[spec.name].items())}
    if not axes or len(axes) > _MOST_OPEN:
        return {}
    walk = ShapeWalk(bodies)
    walk.run(symbolic(specs, walk.sizes))
    with np.errstate(all="ignore"):
        found = solve(walk.sizes.conditions.values(), axes)
    ranks = {spec.name: len(spec.shape or ()) for spec in specs}
    fitting = {
        name: tuple(found.get(symbols.get(i, "")) for i in range(ranks[name])) for name, symbols in names.items()
    }
    return {name: sizes for name, sizes in fitting.items() if any(size is not None for size in sizes)}


def symbolic(specs: Sequence[TensorSpec], sizes: Expressions) -> dict[str, Inferred]:
    """What is known of inputs from their own shapes, by name.

    Args:
        specs: the inputs.
        sizes: makes expressions.
    """
    known: dict[str, Inferred] = {}
    for spec in specs:
        symbols = _open(spec)
        shape: tuple[Size, ...] = tuple(
            size if isinstance(size, int) else sizes.symbol(symbols[axis]) for axis, size in enumerate(spec.shape or ())
        )
        known[spec.name] = Inferred(None if spec.shape is None else shape)
    return known


def _open(spec: TensorSpec) -> dict[int, str]:
    """What the open sizes of an input are called, by axis: one name, one size; what has no name is one of its own."""
    sizes = enumerate(spec.shape or ())
    return {axis: size or f"{spec.name}\0{axis}" for axis, size in sizes if not isinstance(size, int)}
