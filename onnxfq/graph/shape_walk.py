"""Following the shapes of all values through a model, as expressions of the sizes that its inputs leave open."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import FunctionProto, GraphProto, TensorProto, ValueInfoProto

from onnxfq.errors import ModelError
from onnxfq.graph.bodies import MOST_DIMENSIONS, Body, Node
from onnxfq.graph.shape_call import MOST_VALUES, UNKNOWN, Inferred, ShapeCall, Untold, as_data
from onnxfq.graph.shape_operators import operator_of
from onnxfq.graph.size_expressions import Expression, Expressions
from onnxfq.graph.tensors import NUMPY_TYPES, Tensor

_MOST_NODES = 20_000
_DEEPEST = 16  # branches in branches, functions in functions
_LITERALS = ("value_int", "value_ints", "value_float", "value_floats")
# What functions of shapes meet in graphs that are not as ONNX says: nothing is then known of the node's outputs.
_ODD = (Untold, ModelError, ArithmeticError, LookupError, TypeError, ValueError, RuntimeError, AttributeError)


@dataclass
class Scope:
    """What is known of the values of one graph, and of those around it.

    Attributes:
        body: the graph.
        parent: the scope around it.
        values: what is known, by name; grows.
    """

    body: Body
    parent: Scope | None = None
    values: dict[str, Inferred] = field(default_factory=dict)

    def look_up(self, name: str) -> Inferred:
        """What is known of a value that the graph sees."""
        scope: Scope | None = self
        while scope is not None:
            if name not in scope.values and name in scope.body.initializers:
                scope.values[name] = _stored(scope.body.initializers[name])
            if name in scope.values:
                return scope.values[name]
            scope = scope.parent
        return UNKNOWN


class ShapeWalk:
    """Follows shapes through a model, while it has steps left.

    Args:
        bodies: all its scopes, the main graph first.

    Attributes:
        sizes: the expressions met, and their conditions.
    """

    def __init__(self, bodies: list[Body]) -> None:
        self.sizes = Expressions()
        self._main = bodies[0]
        self._scopes = {id(body.proto): body for body in bodies}
        functions = (body for body in bodies if isinstance(body.proto, FunctionProto))
        self._functions = {(str(b.proto.domain), str(b.proto.name)): b for b in functions}
        self._left = _MOST_NODES

    def run(self, inputs: Mapping[str, Inferred]) -> Scope:
        """Go through the main graph; returns what is known of its values."""
        scope = Scope(self._main, None, dict(inputs))
        with np.errstate(all="ignore"):
            self._body(scope, _DEEPEST)
        return scope

    def _body(self, scope: Scope, depth: int) -> None:
        declared = _declared(scope.body.proto)
        for proto in scope.body.proto.node:
            self._left -= 1
            if self._left < 0:
                return
            results = self._node(Node(proto, scope.body), scope, depth)
            for name, known in zip(proto.output, results, strict=False):
                scope.values[name] = known
            for name in proto.output:
                if name in declared:
                    scope.values[name] = self._refined(scope.values.get(name, UNKNOWN), declared[name])

    def _refined(self, known: Inferred, declared: ValueInfoProto) -> Inferred:
        """What the model itself says of a value, where nothing better is known."""
        if known.shape is not None and None not in known.shape:
            return known
        shape = declared.type.tensor_type.shape.dim
        said = [int(d.dim_value) if d.dim_value > 0 else None for d in shape]
        if known.shape is None:
            return Inferred(tuple(said), known.data) if declared.type.tensor_type.HasField("shape") else known
        if len(said) != len(known.shape):
            return known
        return Inferred(
            tuple(other if s is None else s for s, other in zip(known.shape, said, strict=True)), known.data
        )

    def _node(self, node: Node, scope: Scope, depth: int) -> Sequence[Inferred]:
        try:
            if node.op_type == "Constant" and not node.domain:
                return [_literal(node)]
            if node.references:
                return ()
            inputs = [scope.look_up(name) if name else UNKNOWN for name in node.inputs]
            if node.op_type == "If" and not node.domain:
                return self._branches(node, inputs[0], scope, depth)
            called = self._functions.get((node.domain, node.op_type))
            if called is not None:
                return self._inside(Scope(called, None, dict(zip(called.proto.input, inputs, strict=False))), depth)
            operator = operator_of(node)
            if operator is None:
                return ()
            found = operator(ShapeCall(node, inputs, self.sizes))
        except _ODD:
            return ()
        several = found if isinstance(found, list) else [found]
        return [_checked(known if isinstance(known, Inferred) else Inferred(known)) for known in several]

    def _branches(self, node: Node, condition: Inferred, scope: Scope, depth: int) -> Sequence[Inferred]:
        """The branch that is taken; both where either may be, without their conditions where that depends on sizes."""
        taken = None if condition.data is None else condition.data.item()
        names = ["then_branch", "else_branch"]
        if taken is not None and not isinstance(taken, Expression):
            names = names[:1] if taken else names[1:]
        graphs = {a.name: a.g for a in node.proto.attribute}
        kept = dict(self.sizes.conditions)
        results = [self._inside(Scope(self._scopes[id(graphs[name])], scope), depth) for name in names]
        if isinstance(taken, Expression):
            self.sizes.conditions = kept
        return [
            UNKNOWN if any(o.shape != one.shape for o in others) else one
            for one, *others in zip(*results, strict=False)
        ]

    def _inside(self, scope: Scope, depth: int) -> Sequence[Inferred]:
        """Go through a branch or a function; returns what is known of its outputs."""
        if not depth:
            return ()
        self._body(scope, depth - 1)
        outputs = scope.body.proto.output
        return [scope.look_up(str(o.name if isinstance(o, ValueInfoProto) else o)) for o in outputs]


def _checked(known: Inferred) -> Inferred:
    """Sizes are whole numbers, not below 0; where they are not, the graph is not what it seems."""
    shape = known.shape
    if shape is not None and len(shape) > MOST_DIMENSIONS:
        return UNKNOWN
    if shape is None or not any(isinstance(size, float) or (isinstance(size, int) and size < 0) for size in shape):
        return known
    return Inferred(tuple(None if isinstance(s, float) or (isinstance(s, int) and s < 0) else s for s in shape))


def _declared(proto: GraphProto | FunctionProto) -> dict[str, ValueInfoProto]:
    infos = (*proto.value_info, *proto.output) if isinstance(proto, GraphProto) else ()
    return {info.name: info for info in infos if info.type.HasField("tensor_type")}


def _literal(node: Node) -> Inferred:
    """What a Constant node holds."""
    (attribute,) = node.proto.attribute
    if attribute.name == "value":
        return _stored(attribute.t)
    data = as_data(next((node.attributes[name] for name in _LITERALS if node.has(name)), None))
    return Inferred(data.shape, data if data.size <= MOST_VALUES else None) if data.dtype == object else UNKNOWN


def _stored(proto: TensorProto) -> Inferred:
    """A constant's shape, and its elements where they are few and stand in the model itself."""
    shape = tuple(int(d) for d in proto.dims)
    small = len(shape) <= MOST_DIMENSIONS and math.prod(shape) <= MOST_VALUES
    if not small or proto.data_location == TensorProto.EXTERNAL or proto.data_type not in NUMPY_TYPES:
        return Inferred(shape)
    if proto.HasField("raw_data"):
        data = np.frombuffer(proto.raw_data, NUMPY_TYPES[proto.data_type])
    else:
        data = Tensor(proto.name, shape, proto.data_type, None, proto).read()
    return Inferred(shape, as_data(data.tolist()).reshape(shape))
