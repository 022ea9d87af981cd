"""The nodes that take a part of a stored weight, such as one expert of a stack.

Gather of one index, Slice of what lies side by side, and the outputs of Split.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

from onnxfq.graph.bodies import Node
from onnxfq.graph.chain_steps import ChainStep, Cut, Ints, Operands, Reshape


def _gather(node: Node, shape: Ints, small: Operands) -> tuple[ChainStep, ...] | None:
    axis, held = _axis(node.integer("axis", 0), shape), small.integers(1)
    if axis is None or held is None or len(held[1]) != 1:
        return None
    ((index,), rank) = held[1], len(held[0])
    if not -shape[axis] <= index < shape[axis]:
        return None
    start = index % shape[axis]
    return Cut(axis, start, start + 1), Reshape((*shape[:axis], *[1] * rank, *shape[axis + 1 :]))


def _slice(node: Node, shape: Ints, small: Operands) -> tuple[ChainStep, ...] | None:
    """Steps of 1 only; operator sets before 10 have attributes instead of inputs."""
    named = node.has("starts")
    starts, ends = (node.integers(n) if named else small(i) for n, i in (("starts", 1), ("ends", 2)))
    if starts is None or ends is None or len(starts) != len(ends):
        return None
    axes = _given(node, 3, "axes", small, tuple(range(len(starts))))
    strides = _given(node, 4, "steps", small, (1,) * len(starts))
    if axes is None or strides is None or any(stride != 1 for stride in strides) or len(axes) != len(starts):
        return None
    cuts: list[Cut] = []
    for given, start, end in zip(axes, starts, ends, strict=True):
        axis = _axis(given, shape)
        if axis is None:
            return None
        first, last, _ = slice(start, end).indices(shape[axis])
        if last <= first:
            return None
        cuts.append(Cut(axis, first, last))
    return tuple(cuts) if len({cut.axis for cut in cuts}) == len(cuts) else None


def _split(node: Node, shape: Ints, small: Operands) -> tuple[ChainStep, ...] | None:
    axis = _axis(node.integer("axis", 0), shape)
    if axis is None:
        return None
    count, size = len(node.outputs), shape[axis]
    even = -(-size // count)
    sizes = _given(node, 1, "split", small, tuple(min(even, size - i * even) for i in range(count)))
    if sizes is None or len(sizes) != count or min(sizes) < 1 or sum(sizes) != size:
        return None
    end = list(accumulate(sizes))[small.output]
    return (Cut(axis, end - sizes[small.output], end),)


def _given(node: Node, index: int, name: str, small: Operands, otherwise: Ints) -> Ints | None:
    """Integers as an input or an attribute; None where they are not constant."""
    if len(node.inputs) > index and node.inputs[index]:
        return small(index)
    value = node.attributes.get(name)
    return tuple(int(number) for number in value) if isinstance(value, tuple) else otherwise


def _axis(axis: int, shape: Ints) -> int | None:
    return axis % len(shape) if -len(shape) <= axis < len(shape) else None


PARTS: dict[str, Callable[[Node, Ints, Operands], tuple[ChainStep, ...] | None]] = {
    "Gather": _gather,
    "Slice": _slice,
    "Split": _split,
}
