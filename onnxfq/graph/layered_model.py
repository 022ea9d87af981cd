"""Models of one node made deeper: the same several times, one after the other, as layers of a model are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper


def layered_model(model: bytes, layers: int) -> bytes:
    """Serialize a model that runs another one several times, each time with constants of its own.

    Args:
        model: serialized, with one input and one output of the same kind and no subgraphs.
        layers: how often; each but the first reads what the one before gave. Rows of the weights are turned around from
            layer to layer, for ONNX Runtime keeps one copy of those that are equal.
    """
    once = onnx.load_from_string(model)
    (given,), (answer,) = once.graph.input, once.graph.output
    deep = onnx.ModelProto()
    deep.CopyFrom(once)
    del deep.graph.node[:], deep.graph.initializer[:], deep.graph.value_info[:]
    fed = given.name
    for layer in range(layers):
        names = {given.name: fed, "": ""}
        if layer == layers - 1:
            names[answer.name] = answer.name
        _append(deep.graph, once.graph, names, layer)
        fed = f"{answer.name}_{layer}"
    return bytes(deep.SerializeToString())


def _append(deep: onnx.GraphProto, once: onnx.GraphProto, names: Mapping[str, str], layer: int) -> None:
    """Add nodes and constants, all of whose names get the layer's number but those that are given."""
    suffix = f"_{layer}"
    for proto in once.initializer:
        name = names.get(proto.name, proto.name + suffix)
        deep.initializer.add().CopyFrom(_turned(proto, layer) if layer else proto)
        deep.initializer[-1].name = name
    for proto in once.node:
        node = deep.node.add()
        node.CopyFrom(proto)
        node.name = f"{node.name}{suffix}_{len(deep.node)}"
        for values in (node.input, node.output):
            values[:] = [names.get(name, name + suffix) for name in values]


def _turned(proto: onnx.TensorProto, layer: int) -> onnx.TensorProto:
    """A weight with its rows in another order; shapes and axes, which are int64, stay."""
    if proto.data_type == onnx.TensorProto.INT64 or not proto.dims:
        return proto
    return numpy_helper.from_array(np.roll(numpy_helper.to_array(proto), layer, axis=0))
