"""Gradients of functions of single elements."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from onnx import NodeProto, TensorProto

from onnxfq.graph.gradient_nodes import GradientNodes, NoGradientError
from onnxfq.graph.gradient_registry import GradientRule, Slopes, attributes_of, gradient_of, only


@gradient_of("Pow")
def _pow(nodes: GradientNodes, node: NodeProto, gradients: Slopes, wanted: Sequence[bool]) -> Slopes:
    (x, exponent), g = node.input, only(gradients)
    found = nodes.constants.get(exponent)
    if wanted[1] or found is None or found.size != 1:
        raise NoGradientError
    power = float(found.reshape(-1)[0])
    raised = x if power == 2 else nodes.add("Pow", x, nodes.number(power - 1))
    return [nodes.add("Mul", g, nodes.add("Mul", raised, nodes.number(power))), None]


def _pointwise(slope: Callable[[GradientNodes, str, str], str]) -> GradientRule:
    """The rule of a function of single elements, from its derivative made of x and y."""

    def rule(nodes: GradientNodes, node: NodeProto, gradients: Slopes, wanted: Sequence[bool]) -> Slopes:
        return [nodes.add("Mul", only(gradients), slope(nodes, node.input[0], node.output[0]))]

    return rule


def _one_less_square(nodes: GradientNodes, _: str, y: str) -> str:
    return nodes.add("Sub", nodes.number(1), nodes.add("Mul", y, y))


def _bell(nodes: GradientNodes, x: str, _: str) -> str:
    falling = nodes.add("Exp", nodes.add("Neg", nodes.add("Mul", x, x)))
    return nodes.add("Mul", falling, nodes.number(2 / math.sqrt(math.pi)))


def _logistic_slope(nodes: GradientNodes, _: str, y: str) -> str:
    return nodes.add("Mul", y, nodes.add("Sub", nodes.number(1), y))


def _half_inverse(nodes: GradientNodes, _: str, y: str) -> str:
    return nodes.add("Div", nodes.number(0.5), y)


def _inverse_square(nodes: GradientNodes, _: str, y: str) -> str:
    return nodes.add("Neg", nodes.add("Mul", y, y))


gradient_of("Tanh")(_pointwise(_one_less_square))
gradient_of("Erf")(_pointwise(_bell))
gradient_of("Sigmoid")(_pointwise(_logistic_slope))
gradient_of("Sqrt")(_pointwise(_half_inverse))
gradient_of("Reciprocal")(_pointwise(_inverse_square))
gradient_of("Exp")(_pointwise(lambda nodes, x, y: y))
gradient_of("Log")(_pointwise(lambda nodes, x, y: nodes.add("Reciprocal", x)))
gradient_of("Abs")(_pointwise(lambda nodes, x, y: nodes.add("Sign", x)))
gradient_of("Cos")(_pointwise(lambda nodes, x, y: nodes.add("Neg", nodes.add("Sin", x))))
gradient_of("Sin")(_pointwise(lambda nodes, x, y: nodes.add("Cos", x)))


@gradient_of("Gelu")
def _gelu(nodes: GradientNodes, node: NodeProto, gradients: Slopes, wanted: Sequence[bool]) -> Slopes:
    """The exact one: `Φ(x) + x·φ(x)`."""
    if attributes_of(node).get("approximate", b"none") != b"none":
        raise NoGradientError
    x = node.input[0]
    erf = nodes.add("Erf", nodes.add("Mul", x, nodes.number(math.sqrt(0.5))))
    below = nodes.add("Mul", nodes.add("Add", erf, nodes.number(1)), nodes.number(0.5))
    falling = nodes.add("Exp", nodes.add("Mul", nodes.add("Mul", x, x), nodes.number(-0.5)))
    density = nodes.add("Mul", falling, nodes.number(1 / math.sqrt(2 * math.pi)))
    return [nodes.add("Mul", only(gradients), nodes.add("Add", below, nodes.add("Mul", x, density)))]


@gradient_of("Relu")
def _relu(nodes: GradientNodes, node: NodeProto, gradients: Slopes, wanted: Sequence[bool]) -> Slopes:
    positive = nodes.add("Greater", node.output[0], nodes.number(0))
    return [nodes.add("Where", positive, only(gradients), nodes.number(0))]


@gradient_of("Neg")
def _neg(nodes: GradientNodes, node: NodeProto, gradients: Slopes, wanted: Sequence[bool]) -> Slopes:
    return [nodes.add("Neg", only(gradients))]


@gradient_of("Identity")
def _identity(nodes: GradientNodes, node: NodeProto, gradients: Slopes, wanted: Sequence[bool]) -> Slopes:
    return [only(gradients)]


@gradient_of("Cast")
def _cast(nodes: GradientNodes, node: NodeProto, gradients: Slopes, wanted: Sequence[bool]) -> Slopes:
    """From float32 to a type of floating-point numbers."""
    if attributes_of(node).get("to") not in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16):
        raise NoGradientError
    nodes.shape(node.input[0])
    return [nodes.add("Cast", only(gradients), to=TensorProto.FLOAT)]
