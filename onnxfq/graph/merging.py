"""Nodes that compute the same thing are written once: products that read one tensor share what is made of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from onnx import NodeProto

Key = tuple[str, str, tuple[str, ...], tuple[bytes, ...]]


def merge_equal(replacements: Iterable[tuple[list[NodeProto], Collection[str]]]) -> None:
    """Drop nodes that compute what an earlier one has computed, and let others read that.

    Args:
        replacements: of one scope in its order: new nodes, changed in place, and the names that the rest of the model
            reads of them, which stay. Nobody else reads any other name.
    """
    known: dict[Key, NodeProto] = {}
    renamed: dict[str, str] = {}
    for nodes, kept in replacements:
        left = []
        for node in nodes:
            for index, name in enumerate(node.input):
                node.input[index] = renamed.get(name, name)
            first = known.setdefault(_key(node), node)
            if first is node or not set(kept).isdisjoint(node.output) or len(first.output) != len(node.output):
                left.append(node)
            else:
                renamed.update(zip(node.output, first.output, strict=True))
        nodes[:] = left


def _key(node: NodeProto) -> Key:
    attributes = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
    return node.op_type, node.domain, tuple(node.input), tuple(attributes)
