"""Gradients in reverse, as further nodes of a model: ONNX Runtime computes them wherever it runs.

Source: reverse accumulation; A. Griewank and A. Walther, "Evaluating Derivatives", 2nd edition, 2008, chapter 3.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from onnx import NodeProto

from onnxfq.graph import gradient_functions, gradient_rules  # noqa: F401 - their rules are in the table once imported
from onnxfq.graph.flow import reads
from onnxfq.graph.gradient_nodes import GradientNodes, NoGradientError
from onnxfq.graph.gradient_registry import GRADIENTS

_NO_VALUES = frozenset({"Shape", "Size"})  # of what they read nothing but sizes counts
_KNOWN_DOMAINS = ("", "ai.onnx", "com.microsoft")


@dataclass(frozen=True, slots=True)
class Gradients:
    """What was found.

    Attributes:
        names: the gradient of each parameter that has one.
        blocked: operators without a rule; what lies before them has no gradient, whatever other ways there are.
    """

    names: Mapping[str, str]
    blocked: tuple[str, ...]


def dependent(nodes: Sequence[NodeProto], parameters: Collection[str]) -> set[str]:
    """The parameters, and the values that depend on them by more than sizes."""
    found = set(parameters)
    for node in nodes:
        if node.op_type not in _NO_VALUES and not found.isdisjoint(reads(node)):
            found.update(name for name in node.output if name)
    return found


def add_gradients(
    nodes: Sequence[NodeProto], parameters: Collection[str], given: Mapping[str, str], adding: GradientNodes
) -> Gradients:
    """Go back from values whose gradients are known to parameters.

    Args:
        nodes: of the model, in order.
        parameters: names.
        given: gradients of some values, by the names of these.
        adding: takes the new nodes.
    """
    depends, blocked = dependent(nodes, parameters), dict[str, None]()
    lost = set[str]()  # values of whose gradients a part is not known
    parts: dict[str, list[str]] = {name: [gradient] for name, gradient in given.items()}

    def summed(name: str) -> str | None:
        terms = parts.pop(name, [])
        return adding.add("Sum", *terms) if len(terms) > 1 else terms[0] if terms else None

    for node in reversed(nodes):
        if not lost.isdisjoint(node.output):
            lost.update(depends.intersection(reads(node)))
        if depends.isdisjoint(node.output) or parts.keys().isdisjoint(node.output):
            continue
        wanted = [name in depends for name in node.input]
        outputs, kept = [summed(name) for name in node.output], len(adding.nodes)
        rule = GRADIENTS.get(node.op_type) if node.domain in _KNOWN_DOMAINS else None
        try:
            if rule is None:
                raise NoGradientError
            if node.op_type != "Cast":  # all others want float32, whose shapes alone are known
                for name in depends.intersection((*node.input, *node.output)):
                    adding.shape(name)
            made = rule(adding, node, outputs, wanted)
        except NoGradientError:
            blocked[node.op_type] = None
            lost.update(depends.intersection(reads(node)))
            del adding.nodes[kept:]
            continue
        for name, want, gradient in zip(node.input, wanted, made, strict=True):
            if want and gradient is not None:
                parts.setdefault(name, []).append(gradient)
    usable = [name for name in parameters if name not in lost]
    found = {name: gradient for name in usable if (gradient := summed(name)) is not None}
    return Gradients(found, tuple(blocked))
