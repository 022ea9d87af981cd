"""What values are: arrays of how many dimensions, or none, as the model declares or ONNX's shape inference finds."""

from __future__ import annotations

from typing import Literal, TypeAlias

import onnx.shape_inference
from onnx import FunctionProto, GraphProto, ModelProto, ValueInfoProto

from onnxfq.graph.bodies import Body, bodies

# What alone makes values that are no arrays: sequences, optional values, maps.
_MAKERS = frozenset(
    {"SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SequenceMap", "SplitToSequence"}
    | {"Optional", "ZipMap", "CastMap", "DictVectorizer"}
)
_NO_ARRAY: Literal["no array"] = "no array"
_DEEPEST = 64  # nodes that a value is followed back through

_Known: TypeAlias = tuple[int | None, ...] | Literal["no array"]
_Shapes = dict[str, _Known]


class ValueTypes:
    """Types by scope and name.

    Args:
        model: the model; must not change.
        scopes: all its graphs and functions.
    """

    def __init__(self, model: ModelProto, scopes: list[Body]) -> None:
        self._model, self._scopes = model, scopes
        self._declared: dict[Body, _Shapes] = {}
        self._inferred: dict[Body, _Shapes] | None = None
        self._others: bool | None = None
        self._scopes_by_proto = {id(scope.proto): scope for scope in scopes}
        functions = (scope for scope in scopes if isinstance(scope.proto, FunctionProto))
        self._functions = {(scope.proto.domain, scope.proto.name): scope for scope in functions}

    def rank(self, body: Body, name: str) -> int | None:
        """How many dimensions a value has that a scope sees; None where nothing tells."""
        shape = self.shape(body, name)
        return None if shape is None else len(shape)

    def shape(self, body: Body, name: str) -> tuple[int | None, ...] | None:
        """A value's sizes, None where they differ from run to run; None as a whole where nothing tells its rank."""
        known = self._known(body, name)
        return known if isinstance(known, tuple) else None

    def is_array(self, body: Body, name: str) -> bool:
        """Whether a value is an array; so is one of which nothing else is known."""
        if self._others is None:
            nodes = (node for scope in self._scopes for node in scope.proto.node)
            inputs = (info.type.WhichOneof("value") for info in self._model.graph.input)
            self._others = any(node.op_type in _MAKERS for node in nodes) or any(k != "tensor_type" for k in inputs)
        if not self._others:
            return True
        return self._is_array(body, name, _DEEPEST)

    def _is_array(self, body: Body, name: str, depth: int) -> bool:
        """Follow a value back through what hands it on: inference knows nothing behind operators that ONNX lacks."""
        home = body.home_of(name)
        if home is None or not depth or self._known(home, name) == _NO_ARRAY:
            return home is None or not depth
        maker = home.producers.get(name)
        if maker is None:
            return True
        position = list(maker.output).index(name)
        if maker.op_type in _MAKERS:
            return False
        if maker.op_type == "Identity":
            return self._is_array(home, maker.input[0], depth - 1)
        if maker.op_type == "Loop" and position + 2 < len(maker.input):
            return self._is_array(home, maker.input[position + 2], depth - 1)
        if maker.op_type == "If":
            branches = [self._scopes_by_proto[id(a.g)] for a in maker.attribute if a.HasField("g")]
            return all(self._is_array(other, other.proto.output[position].name, depth - 1) for other in branches)
        called = self._functions.get((maker.domain, maker.op_type))
        return called is None or self._is_array(called, called.proto.output[position], depth - 1)

    def _known(self, body: Body, name: str) -> _Known | None:
        home = body.home_of(name)
        if home is None:
            return None
        if home not in self._declared:
            self._declared[home] = _declared(home)
        known = self._declared[home].get(name)
        if known is None and not home.root.is_function:
            self._inferred = _inferred(self._model, self._scopes) if self._inferred is None else self._inferred
            known = self._inferred.get(home, {}).get(name)
        return known


def _declared(body: Body) -> _Shapes:
    """What a scope says about its own values; of a function, nothing holds for every call."""
    if not isinstance(body.proto, GraphProto):
        return {}
    found = ((info.name, _shape(info)) for info in (*body.proto.value_info, *body.proto.input, *body.proto.output))
    return {name: shape for name, shape in found if shape is not None}


def _inferred(model: ModelProto, scopes: list[Body]) -> dict[Body, _Shapes]:
    """What ONNX's shape inference adds; nothing where it fails. Large tensors are references, and stay so."""
    try:
        found = bodies(onnx.shape_inference.infer_shapes(model))
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return {}
    same = len(found) == len(scopes)
    return {body: _declared(other) for body, other in zip(scopes, found, strict=True)} if same else {}


def _shape(info: ValueInfoProto) -> _Known | None:
    kind = info.type.WhichOneof("value")
    if kind not in (None, "tensor_type", "sparse_tensor_type"):
        return _NO_ARRAY
    if not info.type.tensor_type.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in info.type.tensor_type.shape.dim)
