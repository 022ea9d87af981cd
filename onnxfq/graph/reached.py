"""Which outputs of a model some of its nodes reach."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import NodeProto

from onnxfq.graph.bodies import Body, Node
from onnxfq.graph.flow import Flow
from onnxfq.graph.model import Graph


def reached_outputs(graph: Graph, nodes: Iterable[Node]) -> frozenset[str]:
    """The outputs that depend on what some nodes compute; all, where one stands in a local function.

    Args:
        graph: the model, before its edits are carried out.
        nodes: of any of its scopes.
    """
    wanted = {output.name for output in graph.signature.outputs}
    holders: set[int] = set()
    for node in nodes:
        holder = _in_main_graph(node.body, node.proto)
        if holder is None:
            return frozenset(wanted)
        holders.add(id(holder))
    reached: set[str] = set()
    for step in Flow(graph).steps:
        if id(step.node.proto) in holders or not reached.isdisjoint(step.reads):
            reached.update(step.writes)
    return frozenset(wanted & reached)


def _in_main_graph(body: Body, proto: NodeProto) -> NodeProto | None:
    """The node of the main graph in whose subgraphs, of any depth, a node stands; None for one of a function."""
    while body.parent is not None and (holder := body.holder) is not None:
        body, proto = body.parent, holder[0]
    return None if body.is_function else proto
