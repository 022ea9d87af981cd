"""Which function makes the gradients of which operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onnx import NodeProto, helper

from onnxfq.graph.gradient_nodes import GradientNodes, NoGradientError

Slopes = Sequence[str | None]
GradientRule = Callable[[GradientNodes, NodeProto, Slopes, Sequence[bool]], Slopes]

GRADIENTS: dict[str, GradientRule] = {}


def gradient_of(*operators: str) -> Callable[[GradientRule], GradientRule]:
    """Register a rule.

    It gets new nodes, the node, the gradients of its outputs (None of one that nothing depends on), and which inputs
    need one; and returns one for each input, or None.
    """

    def register(rule: GradientRule) -> GradientRule:
        GRADIENTS.update(dict.fromkeys(operators, rule))
        return rule

    return register


def attributes_of(node: NodeProto) -> Mapping[str, Any]:
    """By name."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def only(gradients: Slopes) -> str:
    """The gradient of the first output, of nodes whose others nothing depends on.

    Raises:
        NoGradientError: something does.
    """
    first, *others = gradients
    if first is None or any(others):
        raise NoGradientError
    return first
