"""Following a node input back to the constant it is made of, through the detours exporters write.

initializer or Constant → any chain of Transpose, Cast, Identity, Reshape, Squeeze, Unsqueeze, Flatten → the input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto

from onnxfq.graph.bodies import Body, Node
from onnxfq.graph.tensors import NUMPY_TYPES, Tensor, describe, type_name

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_QUANTIZED = frozenset({"DequantizeLinear", "DynamicDequantizeLinear"})
_LONGEST_CHAIN = 64


@dataclass(frozen=True)
class NotConstant:
    """Why an input is no usable constant; `reason` is for people."""

    reason: str
    quantized: bool = False


@dataclass(frozen=True)
class Constant:
    """A constant value, still on disk, and the steps from its bytes to what the node reads.

    Attributes:
        leaf: the tensor at the beginning of the chain.
        home: the scope the leaf stands in.
        steps: [(kind, arguments)]: ("transpose", perm), ("cast", ONNX type), ("reshape", shape).
        shape: of the value the node reads.
        type: ONNX element type of the value the node reads.
        names: what the chain defines, from the node's input back to the leaf, with the scope of each.
    """

    leaf: Tensor
    home: Body = field(repr=False)
    steps: tuple[tuple[str, Any], ...]
    shape: tuple[int, ...]
    type: int
    names: tuple[tuple[Body, str], ...] = field(repr=False)

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for equal values: same leaf, same steps."""
        return id(self.home), self.leaf.name, self.steps

    def load(self) -> npt.NDArray[Any]:
        """Read the value; a view of the leaf's bytes where the steps allow it."""
        value = self.leaf.read()
        for kind, argument in self.steps:
            if kind == "transpose":
                value = value.transpose(argument)
            elif kind == "reshape":
                value = value.reshape(argument)
            else:
                value = value.astype(NUMPY_TYPES[argument])
        return value


def resolve(body: Body, name: str, model: Path, *, overridable: bool) -> Constant | NotConstant:
    """Follow `name` to its constant.

    Args:
        body: the scope in which a node reads the name.
        name: the node's input.
        model: the model's path, for external data.
        overridable: whether callers may override initializers that are graph inputs too (IR version 4 and later).
    """
    trail: list[tuple[Body, str]] = []
    detours: list[tuple[Body, NodeProto]] = []
    for _ in range(_LONGEST_CHAIN):
        home = _home(body, name)
        if home is None:
            return NotConstant("no constant weight: both inputs are computed at run time")
        trail.append((home, name))
        leaf = _leaf(home, name, model, overridable=overridable)
        if isinstance(leaf, NotConstant):
            return leaf
        if isinstance(leaf, Tensor):
            return _apply(leaf, home, detours, trail, model, overridable=overridable)
        if leaf.op_type not in _STEPS or not leaf.input:
            return NotConstant("no constant weight: both inputs are computed at run time")
        detours.append((home, leaf))
        body, name = home, leaf.input[0]
    return NotConstant("no constant weight: the chain of nodes before it does not end")


def _home(body: Body | None, name: str) -> Body | None:
    """The scope that defines a name, seen from `body`."""
    while body is not None:
        if name in body.inputs or name in body.initializers or name in body.producers or name in body.sparse:
            return body
        body = body.parent
    return None


def _leaf(home: Body, name: str, model: Path, *, overridable: bool) -> Tensor | NodeProto | NotConstant:
    if name in home.initializers:
        if name in home.inputs and overridable:
            return NotConstant(f"the weight '{name}' is a graph input too, whose value callers may replace")
        return describe(home.initializers[name], model)
    if name in home.inputs:
        if home.is_function:
            return NotConstant(f"the weight is an argument of {home.label}: inline the function first")
        return NotConstant("no constant weight: both inputs are computed at run time")
    if name in home.sparse:
        return NotConstant(f"the weight '{name}' is stored sparse")
    node = home.producers[name]
    if node.op_type in _QUANTIZED:
        return NotConstant("already quantised: its weight comes from DequantizeLinear", quantized=True)
    if node.op_type != "Constant":
        return node
    tensor = Node(node, home).attributes.get("value")
    if not isinstance(tensor, TensorProto):
        return NotConstant("the weight's Constant node holds no dense tensor")
    return describe(tensor, model, name)


def _apply(
    leaf: Tensor,
    home: Body,
    detours: list[tuple[Body, NodeProto]],
    trail: list[tuple[Body, str]],
    model: Path,
    *,
    overridable: bool,
) -> Constant | NotConstant:
    """Turn the nodes between leaf and reader into steps, and follow shape and type through them."""
    shape, kind, steps = leaf.shape, leaf.type, []
    for body, node in reversed(detours):

        def small(index: int, body: Body = body, node: NodeProto = node) -> tuple[int, ...] | None:
            """The integers that an input holds, where they are constant."""
            if index >= len(node.input) or not node.input[index]:
                return None
            value = resolve(body, node.input[index], model, overridable=overridable)
            if isinstance(value, NotConstant) or math.prod(value.shape) > 64:
                return None
            return tuple(int(v) for v in np.ravel(value.load()))

        step = _STEPS[node.op_type](Node(node, body), shape, small)
        if step is None:
            return NotConstant(f"no constant weight: {node.op_type} before it cannot be followed")
        if step[0] == "cast":
            if kind not in FLOATS or step[1] not in FLOATS:
                return NotConstant(
                    f"already quantised: its weight is cast from {type_name(kind)}", quantized=kind not in FLOATS
                )
            kind = step[1]
        elif step[0] == "transpose":
            shape = tuple(shape[i] for i in step[1])
        elif step[0] == "reshape":
            shape = step[1]
        if step[0] != "identity":
            steps.append(step)
    return Constant(leaf, home, tuple(steps), shape, kind, tuple(trail))


Step = tuple[str, Any]
_Small = Callable[[int], tuple[int, ...] | None]


def _transpose(node: Node, shape: tuple[int, ...], small: _Small) -> Step | None:
    perm = node.attributes.get("perm", tuple(reversed(range(len(shape)))))
    return ("transpose", perm) if sorted(perm) == list(range(len(shape))) else None


def _cast(node: Node, shape: tuple[int, ...], small: _Small) -> Step | None:
    return ("cast", node.attributes["to"]) if "to" in node.attributes else None


def _identity(node: Node, shape: tuple[int, ...], small: _Small) -> Step | None:
    return ("identity", None)


def _reshape(node: Node, shape: tuple[int, ...], small: _Small) -> Step | None:
    wanted = node.attributes.get("shape") or small(1)
    if wanted is None:
        return None
    if not node.attributes.get("allowzero", 0):
        if any(d == 0 and i >= len(shape) for i, d in enumerate(wanted)):
            return None
        wanted = tuple(shape[i] if d == 0 else d for i, d in enumerate(wanted))
    if wanted.count(-1) == 1:
        rest = -math.prod(wanted)
        wanted = tuple((math.prod(shape) // rest if rest else 0) if d == -1 else d for d in wanted)
    valid = all(d >= 0 for d in wanted) and math.prod(wanted) == math.prod(shape)
    return ("reshape", wanted) if valid else None


def _axes(node: Node, small: _Small) -> tuple[int, ...] | None:
    return node.attributes.get("axes") or small(1)


def _squeeze(node: Node, shape: tuple[int, ...], small: _Small) -> Step | None:
    given = len(node.inputs) > 1 or "axes" in node.attributes
    axes = _axes(node, small) if given else tuple(i for i, d in enumerate(shape) if d == 1)
    if axes is None or any(not -len(shape) <= a < len(shape) or shape[a] != 1 for a in axes):
        return None
    dropped = {a % len(shape) for a in axes}
    return ("reshape", tuple(d for i, d in enumerate(shape) if i not in dropped))


def _unsqueeze(node: Node, shape: tuple[int, ...], small: _Small) -> Step | None:
    axes = _axes(node, small)
    if axes is None:
        return None
    rank = len(shape) + len(axes)
    added = {a % rank for a in axes}
    if len(added) != len(axes):
        return None
    rest = iter(shape)
    return ("reshape", tuple(1 if i in added else next(rest) for i in range(rank)))


def _flatten(node: Node, shape: tuple[int, ...], small: _Small) -> Step | None:
    axis = node.attributes.get("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return ("reshape", (math.prod(shape[:axis]), math.prod(shape[axis:])))


_STEPS: dict[str, Callable[[Node, tuple[int, ...], _Small], Step | None]] = {
    "Transpose": _transpose,
    "Cast": _cast,
    "Identity": _identity,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Flatten": _flatten,
}
