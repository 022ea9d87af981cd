"""Writing a model for a later version of ONNX's operator set, node by node, without touching its tensors.

`onnx.version_converter` reads whole models into memory, at most 2 GB of them, and knows no functions.
"""

from __future__ import annotations

from collections import Counter

import onnx.defs
from onnx import FunctionProto, ModelProto, NodeProto

from onnxfq.arrays import Array
from onnxfq.errors import ModelError
from onnxfq.graph.bodies import Node
from onnxfq.graph.constants import Constant
from onnxfq.graph.model import Graph
from onnxfq.graph.operator_changes import OLDEST_OPSET, Surroundings, Unchangeable, rewritten, smallest_ir
from onnxfq.graph.tensors import tensor_proto

_MOST_TOLD = 5  # reasons


def raise_opset(graph: Graph, version: int, why: str) -> bool:
    """Make a model import a version of ONNX's operator set, where it imports an earlier one; it computes the same.

    Args:
        graph: the model; changed in memory.
        version: to import at least.
        why: what needs it, for people.

    Returns:
        Whether anything was changed; nodes found before are then no longer those of the graph.

    Raises:
        ModelError: some operators cannot be written for that version, or the installed onnx does not know it.
    """
    holders = [holder for holder in (graph.model, *graph.model.functions) if 0 < _imported(holder) < version]
    if not holders:
        return False
    known = onnx.defs.onnx_opset_version()
    if known < version:
        raise ModelError(
            f"{why} needs ONNX's operator set {version}; the installed onnx knows sets up to {known} only (got "
            f"'{graph.path}' with {_imported(graph.model)}). Install a later one with `pip install -U onnx`, or choose "
            "another format or other bits."
        )
    _rewrite(graph, version, why)
    for holder in holders:
        for entry in holder.opset_import:
            if not entry.domain:
                entry.version = max(entry.version, version)
    graph.model.ir_version = max(graph.model.ir_version, smallest_ir(version))
    graph.check()
    return True


def _imported(holder: ModelProto | FunctionProto) -> int:
    """The version of ONNX's operator set that nodes of a model or function are written for; 0 where there are none."""
    return max((known.version for known in holder.opset_import if not known.domain), default=0)


def can_raise_opset(graph: Graph, version: int) -> bool:
    """Whether `raise_opset` would do it."""
    return onnx.defs.onnx_opset_version() >= version and not _rewritten(graph, version)[1]


def _rewrite(graph: Graph, version: int, why: str) -> None:
    """Replace the nodes that a later operator set writes in another way."""
    changes, problems = _rewritten(graph, version)
    if problems:
        told = "; ".join(f"{reason} ({count}x)" for reason, count in problems.most_common(_MOST_TOLD))
        raise ModelError(
            f"{why} needs ONNX's operator set {version}, and '{graph.path}' cannot be converted to it from "
            f"{_imported(graph.model)}: {told}. Export the model with operator set {version}, or choose another "
            "format, such as matmulnbits."
        )
    for node, new_nodes in changes:
        graph.replace(node, new_nodes, keeps_name=next(new for new in new_nodes if new.op_type == node.op_type))
    graph.finish()


def _rewritten(graph: Graph, version: int) -> tuple[list[tuple[Node, list[NodeProto]]], Counter[str]]:
    """The nodes that a later operator set writes in another way, with these; and what it cannot write."""
    problems: Counter[str] = Counter()
    changes = list[tuple[Node, list[NodeProto]]]()
    for node in graph.nodes():
        old = graph.opset(node)
        if node.domain or not 0 < old < version:
            continue
        if old < OLDEST_OPSET:
            problems[f"only operator sets from {OLDEST_OPSET} on are converted"] += 1
            continue
        found = rewritten(node, old, version, _surroundings(graph, node))
        if isinstance(found, Unchangeable):
            problems[found.reason] += 1
        elif found:
            changes.append((node, list(found)))
    return changes, problems


def _surroundings(graph: Graph, node: Node) -> Surroundings:
    """What the changes of operators ask for."""

    def is_empty(index: int) -> bool:
        value = graph.constant(node, index)
        return isinstance(value, Constant) and 0 in value.shape

    def constant(base: str, array: Array) -> str:
        name = graph.edits.fresh_name(base)
        graph.edits.add_constant(node.body, tensor_proto(name, array))
        return name

    rank = graph.rank(node, 0) if node.inputs and node.inputs[0] else None
    return Surroundings(rank, is_empty, constant, graph.edits.fresh_name)
