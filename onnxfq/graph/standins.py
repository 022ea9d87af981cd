"""A copy of a model in which every tensor that lies in a file is an empty one: small enough for ONNX's checker."""

from __future__ import annotations

from onnx import GraphProto, ModelProto, TensorProto


def standin(model: ModelProto) -> ModelProto:
    """Copy the model with empty tensors (shape [0]) in place of those that are stored in files."""
    copy = ModelProto()
    copy.CopyFrom(model)
    _empty_graph(copy.graph)
    for training in copy.training_info:
        _empty_graph(training.initialization)
        _empty_graph(training.algorithm)
    for function in copy.functions:
        for node in function.node:
            for attribute in node.attribute:
                _empty(attribute.t)
    return copy


def _empty_graph(graph: GraphProto) -> None:
    for tensor in graph.initializer:
        _empty(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _empty(attribute.t)
            for tensor in attribute.tensors:
                _empty(tensor)
            if attribute.HasField("g"):
                _empty_graph(attribute.g)
            for graph_ in attribute.graphs:
                _empty_graph(graph_)


def _empty(tensor: TensorProto) -> None:
    if tensor.data_location == TensorProto.EXTERNAL:
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        del tensor.dims[:]
        tensor.dims.append(0)
