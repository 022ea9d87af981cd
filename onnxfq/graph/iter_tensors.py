"""Every tensor of a model, wherever it stands: nothing that refers to a file may be overlooked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto


@dataclass(frozen=True, slots=True)
class NamedTensor:
    """One tensor message in its place.

    Attributes:
        label: what to call it.
        proto: the message itself.
        initializer: an initializer of a graph, which may lie in a data file; all others are written inline.
        main: an initializer of the model's own graph.
    """

    label: str
    proto: TensorProto
    initializer: bool = False
    main: bool = False


def iter_tensors(model: ModelProto) -> Iterator[NamedTensor]:
    """All tensors: of graphs, subgraphs, node attributes, local functions and training information."""
    yield from _graph(model.graph, main=True)
    for function in model.functions:
        yield from _nodes(function.node, inline=True)
        yield from _attributes(function.attribute_proto, function.name, inline=True)
    for training in model.training_info:
        yield from _graph(training.initialization)
        yield from _graph(training.algorithm)


def _graph(graph: GraphProto, *, main: bool = False, inline: bool = False) -> Iterator[NamedTensor]:
    """A graph's tensors; `inline` inside functions, whose subgraphs too are written without data files."""
    for tensor in graph.initializer:
        yield NamedTensor(tensor.name, tensor, initializer=not inline, main=main)
    for sparse in graph.sparse_initializer:
        yield from _sparse(sparse, sparse.values.name)
    yield from _nodes(graph.node, inline=inline)


def _nodes(nodes: Iterable[NodeProto], *, inline: bool) -> Iterator[NamedTensor]:
    for node in nodes:
        yield from _attributes(node.attribute, node.output[0] if node.output else node.name, inline=inline)


def _attributes(attributes: Iterable[AttributeProto], label: str, *, inline: bool) -> Iterator[NamedTensor]:
    for attribute in attributes:
        if attribute.HasField("t"):
            yield NamedTensor(label, attribute.t)
        for tensor in attribute.tensors:
            yield NamedTensor(label, tensor)
        if attribute.HasField("sparse_tensor"):
            yield from _sparse(attribute.sparse_tensor, label)
        for sparse in attribute.sparse_tensors:
            yield from _sparse(sparse, label)
        if attribute.HasField("g"):
            yield from _graph(attribute.g, inline=inline)
        for graph in attribute.graphs:
            yield from _graph(graph, inline=inline)


def _sparse(sparse: SparseTensorProto, label: str) -> Iterator[NamedTensor]:
    yield NamedTensor(label, sparse.values)
    yield NamedTensor(label, sparse.indices)
