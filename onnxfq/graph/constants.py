"""Following a node input back to the constant it is made of, through the detours exporters write.

initializer or Constant → any chain of Transpose, Cast, Identity, Reshape, Squeeze, Unsqueeze, Flatten, and of Gather,
Slice and Split that take a part which constants name → the input.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from onnx import TensorProto

from onnxfq.arrays import Array
from onnxfq.graph.bodies import MOST_DIMENSIONS, Body, Node
from onnxfq.graph.chain_steps import Cast, Ints, Operands
from onnxfq.graph.constant_makers import FLOATS, constant_makers, holds_codes, literal, stored_codes
from onnxfq.graph.external_data import Scratch
from onnxfq.graph.tensors import Tensor, read_header, type_name
from onnxfq.graph.weight_chain import WeightChain, is_detour, steps, takes_part

OVERRIDABLE_FROM_IR = 4  # before, every initializer had to be a graph input, and callers could not replace it
_INTEGERS = frozenset({TensorProto.INT64, TensorProto.INT32})
_LONGEST_CHAIN = 64  # nodes
_MOST_INTEGERS = 1024  # that a node on the way is given, such as the sizes of experts
_REPLACEABLE = "the weight is a graph input too, whose value callers may replace (`constant_inputs=True`: none does)"
_COMPUTED = "no constant weight: both inputs are computed at run time"


@dataclass(frozen=True)
class NotConstant:
    """Why an input is no usable constant; `reason` is for people."""

    reason: str
    quantized: bool = False


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A constant's bytes, still on disk, and the way from them to what a node reads; it can be sent elsewhere.

    Attributes:
        leaf: the tensor at the beginning of the chain.
        way: from the leaf to the value the node reads.
    """

    leaf: Tensor
    way: WeightChain

    @classmethod
    def of(cls, leaf: Tensor, way: WeightChain) -> OnDisk:
        """Of a leaf from whose leading axes a part is taken, no more than that part is read."""
        if leaf.piece is None:
            return cls(leaf, way)
        (start, stop), rest = way.split()
        width = leaf.piece.length // max(1, math.prod(leaf.shape))
        piece = replace(leaf.piece, offset=leaf.piece.offset + start * width, length=(stop - start) * width)
        return cls(replace(leaf, shape=rest.start, piece=piece), rest)

    def load(self, scratch: Scratch | None = None) -> Array:
        """Read the value; a view of the leaf's bytes, in `scratch` if given, where the way allows it."""
        return self.way.apply(self.leaf.read(scratch))

    @property
    def files(self) -> tuple[Path, ...]:
        """What is read."""
        return () if self.leaf.piece is None else (self.leaf.piece.path,)


@dataclass(frozen=True)
class Constant:
    """A constant value, still on disk, and the way from its bytes to what the node reads.

    Attributes:
        leaf: the tensor at the beginning of the chain.
        home: the scope the leaf stands in.
        way: from the leaf to the value the node reads.
        names: what the chain defines, from the node's input back to the leaf, with the scope of each.
    """

    leaf: Tensor
    home: Body = field(repr=False)
    way: WeightChain
    names: tuple[tuple[Body, str], ...] = field(repr=False)

    @property
    def shape(self) -> Ints:
        """Of the value the node reads."""
        return self.way.shape

    @property
    def type(self) -> int:
        """ONNX element type of the value the node reads."""
        return self.way.type

    @property
    def key(self) -> tuple[Hashable, ...]:
        """Equal for equal values: same leaf, or bytes that several leaves share, and equal ways."""
        return id(self.home), self.leaf.piece or self.leaf.name, self.way

    @property
    def part(self) -> tuple[Hashable, ...]:
        """Equal for values that are made of the same stored elements, however they are turned."""
        return *self.key[:2], self.way.part

    @property
    def nbytes(self) -> int:
        """Bytes of these elements, as stored."""
        return self.leaf.nbytes * math.prod(self.way.shape) // max(1, math.prod(self.way.start))

    @property
    def on_disk(self) -> OnDisk:
        """The same apart from the graph, whatever folder it will be read from."""
        piece = self.leaf.piece
        whole = None if piece is None else replace(piece, path=piece.path.absolute())
        return OnDisk.of(replace(self.leaf, piece=whole), self.way)

    def load(self, scratch: Scratch | None = None) -> Array:
        """Read the value; a view of the leaf's bytes, in `scratch` if given, where the way allows it."""
        return OnDisk.of(self.leaf, self.way).load(scratch)


def resolve(body: Body, name: str, model: Path, *, overridable: bool) -> Constant | NotConstant:
    """Follow `name` to its constant.

    Args:
        body: the scope in which a node reads the name.
        name: the node's input.
        model: the model's path, for external data.
        overridable: whether callers may override initializers that are graph inputs too (IR version 4 and later).
    """
    return _Resolver(model, overridable).resolve(body, name)


@dataclass(slots=True)
class _Resolver:
    """Resolves one input, and what the nodes on the way to it take shapes and axes from.

    Those may take theirs from chains of their own, and so on: all chains together are bounded, or else a few dozen
    nodes could keep it busy for ever.
    """

    model: Path
    overridable: bool
    followed: int = 0

    def resolve(self, body: Body, name: str) -> Constant | NotConstant:
        """Go back along the chain, then forth again."""
        trail: list[tuple[Body, str]] = []
        detours: list[tuple[Node, str]] = []
        while self.followed < _LONGEST_CHAIN:
            home = body.home_of(name)
            if home is None:
                return NotConstant(_COMPUTED)
            trail.append((home, name))
            leaf = self._leaf(home, name)
            if isinstance(leaf, NotConstant):
                return leaf
            if isinstance(leaf, Tensor):
                return self._forth(leaf, home, detours, tuple(trail))
            detours.append((leaf, name))
            self.followed += 1
            body, name = home, leaf.inputs[0]
        return NotConstant(f"no constant weight: more than {_LONGEST_CHAIN} nodes lie between it and the constant")

    def _leaf(self, home: Body, name: str) -> Tensor | Node | NotConstant:
        """What defines a name: a tensor, a node to go back through, or neither."""
        if name in home.initializers:
            if name in home.inputs and (self.overridable or home.parent):
                return NotConstant(_REPLACEABLE)
            return read_header(home.initializers[name], self.model)
        if name in home.sparse:
            return NotConstant(f"the weight '{name}' is stored sparse")
        if name in home.inputs:
            argument = f"the weight is an argument of {home.label}: inline the function first"
            return NotConstant(argument if home.is_function else _COMPUTED)
        node = Node(home.producers[name], home)
        if node.op_type == "Constant" and not node.domain:
            return self._literal(node, name)
        if not is_detour(node) and not takes_part(node):
            return _not_followed(node)
        return _chosen_by_caller(node) if node.references else node

    def _literal(self, node: Node, name: str) -> Tensor | NotConstant:
        if node.references:
            return _chosen_by_caller(node)
        if len(node.proto.attribute) > 1:  # runtimes differ about which counts
            return NotConstant("the weight's Constant node holds several values")
        if name not in node.body.literals:
            node.body.literals[name] = literal(node, name)
        tensor = node.body.literals[name]
        if tensor is None:
            return NotConstant("the weight's Constant node holds no dense tensor")
        return read_header(tensor, self.model, name)

    def _forth(
        self, leaf: Tensor, home: Body, detours: list[tuple[Node, str]], trail: tuple[tuple[Body, str], ...]
    ) -> Constant | NotConstant:
        """Turn the nodes between leaf and reader into steps, and follow shape and type through them."""
        way = WeightChain(leaf.shape, leaf.shape, leaf.type)
        for node, name in reversed(detours):
            operands = Operands(partial(self._small, node), node.outputs.index(name))
            taken = steps(node, way.shape, operands)
            if taken is None and takes_part(node):
                return _not_followed(node)
            if taken is None:
                return NotConstant(f"no constant weight: {node.op_type} before it cannot be followed")
            for step in taken:
                if isinstance(step, Cast) and not _same_kind(way.type, step.type):
                    return _not_cast(way.type, step.type)
                way = way.then(step)
                if len(way.shape) > MOST_DIMENSIONS:
                    return NotConstant(f"no constant weight: on the way it has {len(way.shape)} dimensions")
        return Constant(leaf, home, way, trail)

    def _small(self, node: Node, index: int) -> tuple[Ints, Ints] | None:
        """The shape and the integers that an input holds, where they are constant and few."""
        if index >= len(node.inputs) or not node.inputs[index]:
            return None
        value = self.resolve(node.body, node.inputs[index])
        if isinstance(value, NotConstant) or value.type not in _INTEGERS or math.prod(value.shape) > _MOST_INTEGERS:
            return None
        return value.shape, tuple(int(v) for v in np.ravel(value.load()))


def _chosen_by_caller(node: Node) -> NotConstant:
    given = ", ".join(node.references)
    return NotConstant(f"no constant weight: the caller of {node.body.root.label} chooses {given} of {node.op_type}")


def _same_kind(one: int, other: int) -> bool:
    return (one in FLOATS and other in FLOATS) or (one in _INTEGERS and other in _INTEGERS)


def _not_cast(stored: int, wanted: int) -> NotConstant:
    if holds_codes(stored) and wanted in FLOATS:
        return NotConstant(f"already quantized: its weight is cast from {type_name(stored)}", quantized=True)
    return NotConstant(f"no constant weight: a Cast from {type_name(stored)} to {type_name(wanted)} is not followed")


def _not_followed(node: Node) -> NotConstant:
    """Why the way back ends at a node."""
    makers = constant_makers(node)
    if not makers:
        return NotConstant(_COMPUTED)
    codes = stored_codes(makers)
    if codes:
        return NotConstant(f"already quantized: {codes}", quantized=True)
    return NotConstant(f"no constant weight: {node.op_type} makes it from constants, fold these first")
