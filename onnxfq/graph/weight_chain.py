"""The nodes that exporters put between a stored weight and its reader, as steps from one array to another.

Transpose, Cast, Identity, Reshape, Squeeze, Unsqueeze and Flatten, and what takes a part: Gather of one index, Slice,
Split (see `weight_parts`). In a normal form: casts first, then as few transpositions and reshapes as will do, parts
taken as early as may be. Equal ways thus compare equal, however a model spells them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxfq.arrays import Array
from onnxfq.graph.bodies import Node
from onnxfq.graph.chain_steps import Cast, ChainStep, Cut, Ints, Operands, Reshape, Shaping, Transpose
from onnxfq.graph.tensors import NUMPY_TYPES
from onnxfq.graph.weight_parts import PARTS


@dataclass(frozen=True, slots=True)
class WeightChain:
    """From a stored array to what a node reads.

    Attributes:
        start: the stored shape.
        shape: the shape at the end.
        type: the ONNX element type at the end.
        casts: element types to pass through.
        shaping: what happens to the dimensions.
    """

    start: Ints
    shape: Ints
    type: int
    casts: Ints = ()
    shaping: tuple[Shaping, ...] = ()

    def then(self, step: ChainStep) -> WeightChain:
        """The same way with one more step."""
        if isinstance(step, Cast):
            return self if step.type == self.type else replace(self, type=step.type, casts=(*self.casts, step.type))
        if isinstance(step, Cut):
            return self._cut(step)
        last = self.shaping[-1] if self.shaping else None
        rest = self.shaping[:-1]
        if isinstance(step, Transpose):
            shape = tuple(self.shape[i] for i in step.perm)
            if isinstance(last, Transpose):
                step = Transpose(tuple(last.perm[i] for i in step.perm))
            else:
                rest = self.shaping
            idle = step.perm == tuple(range(len(shape)))
        else:
            shape = step.shape
            rest = rest if isinstance(last, Reshape) else self.shaping
            idle = shape == _shape_after(self.start, rest)
        return replace(self, shape=shape, shaping=rest if idle else (*rest, step))

    def _cut(self, cut: Cut) -> WeightChain:
        """With a part taken, before transpositions, which do not mind, and before parts along later axes."""
        if cut.start == 0 and cut.stop == self.shape[cut.axis]:
            return self
        last = self.shaping[-1] if self.shaping else None
        before = replace(self, shape=_shape_after(self.start, self.shaping[:-1]), shaping=self.shaping[:-1])
        if isinstance(last, Transpose):
            return before._cut(replace(cut, axis=last.perm[cut.axis])).then(last)
        if isinstance(last, Cut) and last.axis == cut.axis:
            return before._cut(Cut(cut.axis, last.start + cut.start, last.start + cut.stop))
        if isinstance(last, Cut) and last.axis > cut.axis:
            return before._cut(cut)._cut(last)
        return replace(self, shape=cut.shape_of(self.shape), shaping=(*self.shaping, cut))

    @property
    def part(self) -> tuple[Shaping, ...]:
        """All up to the last part that is taken: what says which of the stored elements are read; () for all."""
        ends = [index for index, step in enumerate(self.shaping, start=1) if isinstance(step, Cut)]
        return self.shaping[: max(ends, default=0)]

    def split(self) -> tuple[tuple[int, int], WeightChain]:
        """The stored elements that must be read, from one to before another, and the way from these.

        Parts of leading axes are runs of elements; others are taken after reading.
        """
        (start, stop), shape, rest = (0, math.prod(self.start)), self.start, self.shaping
        while rest:
            cut, left = rest[0], rest[1:]
            known = shape
            if isinstance(cut, Reshape) and left:
                known, cut, left = cut.shape, left[0], left[1:]
            if not isinstance(cut, Cut) or math.prod(known[: cut.axis]) != 1:
                break
            step, shape, rest = math.prod(known[cut.axis + 1 :]), cut.shape_of(known), left
            start, stop = start + cut.start * step, start + cut.stop * step
        return (start, stop), replace(self, start=shape, shaping=rest)

    def apply(self, value: Array) -> Array:
        """Go the way with the stored array; a view of it where there are no casts and no copying reshapes."""
        with np.errstate(over="ignore"):  # infinities are found, and named, with the weight
            for kind in self.casts:
                value = value.astype(NUMPY_TYPES[kind])
        for step in self.shaping:
            value = step.of(value)
        return value


def _shape_after(shape: Ints, shaping: Sequence[Shaping]) -> Ints:
    for step in shaping:
        shape = step.shape_of(shape)
    return shape


def is_detour(node: Node) -> bool:
    """Whether a node hands on all elements of its first input, and is of a kind that `steps` follows."""
    return node.op_type in _KINDS and not node.domain and bool(node.inputs)


def takes_part(node: Node) -> bool:
    """Whether a node may hand on a part of its first input, and is of a kind that `steps` follows."""
    return node.op_type in PARTS and not node.domain and bool(node.inputs)


def steps(node: Node, shape: Ints, small: Operands) -> tuple[ChainStep, ...] | None:
    """What a node does to an array of the given shape; None where that cannot be told."""
    return (PARTS if takes_part(node) else _KINDS)[node.op_type](node, shape, small)


def _transpose(node: Node, shape: Ints, small: Operands) -> tuple[ChainStep, ...] | None:
    perm = node.integers("perm") if node.has("perm") else tuple(reversed(range(len(shape))))
    return (Transpose(perm),) if perm is not None and sorted(perm) == list(range(len(shape))) else None


def _cast(node: Node, shape: Ints, small: Operands) -> tuple[ChainStep, ...] | None:
    kind = node.integer("to", 0)
    return (Cast(kind),) if kind in NUMPY_TYPES else None


def _identity(node: Node, shape: Ints, small: Operands) -> tuple[ChainStep, ...] | None:
    return ()


def _reshape(node: Node, shape: Ints, small: Operands) -> tuple[ChainStep, ...] | None:
    wanted = node.integers("shape") if node.has("shape") else small(1)
    if wanted is None:
        return None
    if not node.integer("allowzero", 0):
        if any(d == 0 and i >= len(shape) for i, d in enumerate(wanted)):
            return None
        wanted = tuple(shape[i] if d == 0 else d for i, d in enumerate(wanted))
    if wanted.count(-1) == 1:
        rest = -math.prod(wanted)
        wanted = tuple((math.prod(shape) // rest if rest else 0) if d == -1 else d for d in wanted)
    valid = all(d >= 0 for d in wanted) and math.prod(wanted) == math.prod(shape)
    return (Reshape(wanted),) if valid else None


def _squeeze(node: Node, shape: Ints, small: Operands) -> tuple[ChainStep, ...] | None:
    axes = _axes(node, small) if _has_axes(node) else tuple(i for i, d in enumerate(shape) if d == 1)
    if axes is None or any(not -len(shape) <= a < len(shape) or shape[a] != 1 for a in axes):
        return None
    dropped = {a % len(shape) for a in axes}
    return (Reshape(tuple(d for i, d in enumerate(shape) if i not in dropped)),)


def _unsqueeze(node: Node, shape: Ints, small: Operands) -> tuple[ChainStep, ...] | None:
    axes = _axes(node, small)
    rank = len(shape) + len(axes or ())
    if axes is None or any(not -rank <= a < rank for a in axes):
        return None
    added = {a % rank for a in axes}
    if len(added) != len(axes):
        return None
    rest = iter(shape)
    return (Reshape(tuple(1 if i in added else next(rest) for i in range(rank))),)


def _flatten(node: Node, shape: Ints, small: Operands) -> tuple[ChainStep, ...] | None:
    axis = node.integer("axis", 1)
    if not -len(shape) <= axis <= len(shape):
        return None
    axis = axis + len(shape) if axis < 0 else axis
    return (Reshape((math.prod(shape[:axis]), math.prod(shape[axis:]))),)


def _has_axes(node: Node) -> bool:
    return node.has("axes") or (len(node.inputs) > 1 and bool(node.inputs[1]))


def _axes(node: Node, small: Operands) -> Ints | None:
    """Axes as an attribute (before operator set 13) or as an input."""
    return node.integers("axes") if node.has("axes") else small(1)


_KINDS: dict[str, Callable[[Node, Ints, Operands], tuple[ChainStep, ...] | None]] = {
    "Transpose": _transpose,
    "Cast": _cast,
    "Identity": _identity,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Flatten": _flatten,
}
