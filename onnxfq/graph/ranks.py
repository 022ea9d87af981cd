"""How many dimensions values have: as the model declares it, or as ONNX's shape inference finds."""

from __future__ import annotations

import onnx.shape_inference
from onnx import GraphProto, ModelProto, ValueInfoProto

from onnxfq.graph.bodies import Body, bodies

_Ranks = dict[str, int]


class Ranks:
    """Ranks by scope and name.

    Args:
        model: the model; must not change.
        scopes: all its graphs and functions.
    """

    def __init__(self, model: ModelProto, scopes: list[Body]) -> None:
        self._model, self._scopes = model, scopes
        self._declared: dict[Body, _Ranks] = {}
        self._inferred: dict[Body, _Ranks] | None = None

    def of(self, body: Body, name: str) -> int | None:
        """The rank of a value that a scope sees; None where nothing tells."""
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


def _declared(body: Body) -> _Ranks:
    """What a scope says about its own values; of a function, nothing holds for every call."""
    if not isinstance(body.proto, GraphProto):
        return {}
    infos = (*body.proto.value_info, *body.proto.input, *body.proto.output)
    return {info.name: len(info.type.tensor_type.shape.dim) for info in infos if _has_shape(info)}


def _inferred(model: ModelProto, scopes: list[Body]) -> dict[Body, _Ranks]:
    """What ONNX's shape inference adds; nothing where it fails. Large tensors are references, and stay so."""
    try:
        found = bodies(onnx.shape_inference.infer_shapes(model))
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return {}
    same = len(found) == len(scopes)
    return {body: _declared(other) for body, other in zip(scopes, found, strict=True)} if same else {}


def _has_shape(info: ValueInfoProto) -> bool:
    return bool(info.type.HasField("tensor_type") and info.type.tensor_type.HasField("shape"))
