"""Models of one node made deeper: the same several times, one after the other, as layers of a model are."""

from __future__ import annotations

from collections.abc import Mapping

import onnx


def layered_model(model: bytes, layers: int) -> bytes:
    """Serialize a model that runs another one several times, each time with constants of its own.

    Args:
        model: serialized, with one input and one output of the same kind and no subgraphs.
        layers: how often; each but the first reads what the one before gave.
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
        _append(deep.graph, once.graph, names, f"_{layer}")
        fed = f"{answer.name}_{layer}"
    return bytes(deep.SerializeToString())


def _append(deep: onnx.GraphProto, once: onnx.GraphProto, names: Mapping[str, str], suffix: str) -> None:
    """Add nodes and constants, all of whose names get a suffix but those that are given."""
    for proto in once.initializer:
        deep.initializer.add().CopyFrom(proto)
        deep.initializer[-1].name = names.get(proto.name, proto.name + suffix)
    for proto in once.node:
        node = deep.node.add()
        node.CopyFrom(proto)
        node.name = f"{node.name}{suffix}_{len(deep.node)}"
        for values in (node.input, node.output):
            values[:] = [names.get(name, name + suffix) for name in values]
