"""Nodes that compute the same thing are written once: products that read one tensor share what is made of it."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import NodeProto

Key = tuple[str, str, tuple[str, ...], tuple[bytes, ...]]


def merge_equal(replacements: Iterable[tuple[list[NodeProto], frozenset[int]]]) -> None:
    """Drop nodes that compute what an earlier one has computed, and let others read that.

    Args:
        replacements: of one scope in its order: new nodes, changed in place, and the ids of those that may be merged;
            only new nodes read what these make.
    """
    known: dict[Key, NodeProto] = {}
    renamed: dict[str, str] = {}
    for nodes, mergeable in replacements:
        left = []
        for node in nodes:
            for index, name in enumerate(node.input):
                node.input[index] = renamed.get(name, name)
            first = known.setdefault(_key(node), node) if id(node) in mergeable else node
            if first is node:
                left.append(node)
            else:
                renamed.update(zip(node.output, first.output, strict=True))
        nodes[:] = left


def _key(node: NodeProto) -> Key:
    attributes = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
    return node.op_type, node.domain, tuple(node.input), tuple(attributes)
