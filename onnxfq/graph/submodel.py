"""Models made of some steps of a larger one, as it is and as it is being edited, side by side.

    values kept from earlier → [steps as in the source]      → values
                             → [steps as edited, "twins"]    → the same values in the quantized model

Steps that nothing quantized comes before are the same in both and stand there once. So do decisions (which rows an
expert gets, which branch runs): the quantized model takes those of the original, or else the two would compute
different tokens, which nothing could be learnt from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, TensorShapeProto, ValueInfoProto

from onnxfq.graph.decisions import choices, follow
from onnxfq.graph.external_data import FileSlice
from onnxfq.graph.flow import Flow, Step, captured
from onnxfq.graph.iter_tensors import iter_tensors
from onnxfq.graph.model import Graph
from onnxfq.graph.tensor_file import TensorFile
from onnxfq.graph.tensors import NEW, ONNX_TYPES, clear_values, embed, read_header, refer

_TEXT = "OSUT"  # numpy's kinds of arrays of text
QUANTIZED_SUFFIX = "/twin"  # added to the names of values of the quantized model that differ from the original's


@dataclass(frozen=True, slots=True)
class ValueInfo:
    """What a value that is fed into a submodel looks like: its type, and its sizes, None where runs differ."""

    dtype: np.dtype[np.generic]
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Submodel:
    """A model that computes some steps.

    Attributes:
        model: serialized; large constants are references into the source's files.
        folder: where those lie.
        outputs: what it returns.
    """

    model: bytes
    folder: Path
    outputs: tuple[str, ...]


def changed(graph: Graph, steps: Iterable[Step], before: Set[str]) -> set[str]:
    """The names, of those that steps compute, whose values differ between the source and the edited model.

    Those of decisions do not; see `choices`.

    Args:
        graph: the model with its edits.
        steps: in order.
        before: changed names that earlier steps compute.
    """
    found: set[str] = set()
    for step in steps:
        if graph.edits.replacement(step.node) or any(name in found or name in before for name in step.reads):
            found.update(set(step.writes) - choices(graph, step.node))
    return found


def extract_submodel(
    graph: Graph,
    flow: Flow,
    steps: Sequence[Step],
    held: Mapping[str, ValueInfo],
    outputs: Sequence[str],
    twins: Set[str],
    tensor_file: TensorFile | None,
) -> Submodel:
    """Build a model of some steps.

    Args:
        graph: the model with its edits.
        flow: its data flow.
        steps: what to compute, in order.
        held: what is fed: names, those of twins with `QUANTIZED_SUFFIX` added.
        outputs: names to return, likewise.
        twins: all names whose values differ in the edited model, of these steps and of earlier ones.
        tensor_file: holds the edits' new tensors; None where there are none.
    """
    if tensor_file is not None:
        tensor_file.flush()
    nodes: list[NodeProto] = []
    for step in steps:
        nodes.append(step.node.proto)
        if not twins.isdisjoint(step.writes):
            edited = graph.edits.replacement(step.node) or [follow(graph, step.node)]
            nodes += [_twin(proto, twins) for proto in edited]
    nodes = [*graph.edits.makers(_wanted(nodes)), *nodes]
    model = ModelProto(ir_version=max(graph.model.ir_version, 8), opset_import=graph.model.opset_import)
    import_domains(model, nodes)
    root = _common_folder(graph.path)
    model.graph.name = "submodel"
    model.graph.node.extend(nodes)
    for node in model.graph.node:
        node.name = ""  # which need not be unique in the source's scopes taken together
    for constant in _constants(graph, flow, nodes):
        if isinstance(constant, SparseTensorProto):
            model.graph.sparse_initializer.append(constant)
        else:
            model.graph.initializer.append(portable(constant, graph.path, root, tensor_file))
    model.graph.input.extend(input_info(name, value) for name, value in held.items())
    model.graph.output.extend(ValueInfoProto(name=name) for name in outputs)
    if any(_calls_function(graph, node) for node in nodes):
        model.functions.extend(graph.model.functions)
    embed_inner(model, graph)
    return Submodel(bytes(model.SerializeToString()), root, tuple(outputs))


def _twin(proto: NodeProto, twins: Set[str]) -> NodeProto:
    return _renamed(proto, lambda name: name + QUANTIZED_SUFFIX if name in twins else name)


def _renamed(proto: NodeProto, name_of: Callable[[str], str]) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(proto)
    for names in (copy.input, copy.output):
        for index, name in enumerate(names):
            names[index] = name_of(name)
    for attribute in copy.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            _rename_captured(graph, name_of)
    return copy


def _rename_captured(graph: GraphProto, name_of: Callable[[str], str]) -> None:
    """Rename what a subgraph takes from outside, in all depths."""
    outer = set(captured(graph))
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in outer:
                node.input[index] = name_of(name)
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _rename_captured(inner, lambda name: name_of(name) if name in outer else name)
    for output in graph.output:
        if output.name in outer:
            output.name = name_of(output.name)


def _constants(graph: Graph, flow: Flow, nodes: Sequence[NodeProto]) -> Iterable[TensorProto | SparseTensorProto]:
    """The constants that nodes read."""
    added = graph.edits.constants
    for name in _wanted(nodes):
        proto = flow.constants.get(name) or added.get(name)
        if proto is not None:
            yield proto


def _wanted(nodes: Iterable[NodeProto]) -> dict[str, None]:
    """The names that nodes read, in order, those that their subgraphs take from outside included."""
    wanted: dict[str, None] = {}
    for node in nodes:
        wanted.update(dict.fromkeys(node.input))
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                wanted.update(dict.fromkeys(captured(inner)))
    return wanted


def portable(proto: TensorProto, model: Path, folder: Path, tensor_file: TensorFile | None) -> TensorProto:
    """A constant for another model: small ones whole, large ones as references, new ones from the tensor file."""
    piece = read_header(proto, model).piece
    copy = TensorProto()
    copy.CopyFrom(proto)
    if piece is None:
        return copy
    if tensor_file is not None and str(piece.path) == NEW:
        embed(copy, bytes(FileSlice(tensor_file.path, piece.offset, piece.length).read()))
        return copy
    real = piece.path.resolve()
    if real.is_relative_to(folder):
        refer(copy, os.fspath(real.relative_to(folder)), piece.offset, piece.length)
    else:
        embed(copy, bytes(piece.read()))
    return copy


def _common_folder(model: Path) -> Path:
    """The folder that all of a model's files lie in: the real one, where the model is a link into a cache."""
    return model.resolve().parent


def input_info(name: str, value: ValueInfo) -> ValueInfoProto:
    """A model's input."""
    info = ValueInfoProto(name=name)
    tensor = info.type.tensor_type
    tensor.elem_type = TensorProto.STRING if value.dtype.kind in _TEXT else ONNX_TYPES[value.dtype]
    tensor.shape.SetInParent()
    for size in value.shape:
        tensor.shape.dim.append(TensorShapeProto.Dimension(**({} if size is None else {"dim_value": size})))
    return info


def import_domains(model: ModelProto, nodes: Sequence[NodeProto]) -> None:
    """Make known the domains of nodes that the model does not import yet."""
    known = {opset.domain for opset in model.opset_import}
    for domain in sorted({node.domain for node in nodes if node.domain} - known):
        model.opset_import.add(domain=domain, version=1)


def _calls_function(graph: Graph, node: NodeProto) -> bool:
    return any((node.domain, node.op_type) == (f.domain, f.name) for f in graph.model.functions)


def embed_inner(model: ModelProto, graph: Graph) -> None:
    """Put the bytes of constants inside subgraphs and functions into the message: they may not lie in files there."""
    for held in iter_tensors(model):
        if held.main or held.proto.data_location != TensorProto.EXTERNAL:
            continue
        piece = read_header(held.proto, graph.path, held.label).piece
        clear_values(held.proto)
        embed(held.proto, b"" if piece is None else bytes(piece.read()))
