"""The constant operand of an Einsum, where the equation is one product with a matrix, or why it is left alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from onnxfq.graph import Constant, Graph, Node, Reshape, Transpose, type_name
from onnxfq.rules.equations import Equation, OddEquationError, arrange, read_equation
from onnxfq.rules.product_weights import BOTH_CONSTANT, chosen_by_caller
from onnxfq.rules.target import SCALE_TYPES, Skip, Target
from onnxfq.rules.unfit_weights import left_alone, unfit

_OPERANDS = 2


def find_in_einsum(graph: Graph, node: Node) -> Sequence[Target] | Skip | None:
    """The target that an Einsum is, why it is left alone, or None where it multiplies nothing by a constant."""
    if node.references:
        return chosen_by_caller(node)
    values = [graph.constant(node, index) for index in range(len(node.inputs))]
    constants = [value for value in values if isinstance(value, Constant)]
    if len(values) != _OPERANDS:
        largest = max(constants, key=lambda value: math.prod(value.shape), default=None)
        if largest is None or len(values) < _OPERANDS:
            return None
        return left_alone(node, largest, f"an Einsum of {len(values)} operands: MatMulNBits multiplies two")
    first, second = values
    if isinstance(first, Constant) and isinstance(second, Constant):
        return left_alone(node, second, BOTH_CONSTANT)
    if isinstance(first, Constant):
        return _target(graph, node, first, constant=0)
    if isinstance(second, Constant):
        return _target(graph, node, second, constant=1)
    told = first if first.quantized else second
    return Skip(node.name, node.op_type, told.reason, quantized=told.quantized)


def _target(graph: Graph, node: Node, weight: Constant, *, constant: int) -> Sequence[Target] | Skip:
    text = node.text("equation")
    reason = unfit(weight, math.prod(weight.shape))
    if reason:
        return left_alone(node, weight, reason)
    try:
        equation = read_equation(text, constant)
        _refuse_sizes(equation, weight, graph.sizes(node, 1 - constant))
        rank = graph.rank(node, 1 - constant) if "..." in text else len(equation.activations)
        axes = arrange(equation, 1 - constant, weight.shape, rank)
    except OddEquationError as odd:
        return left_alone(node, weight, f"the Einsum '{text}' is no product with one matrix: {odd}")
    k = math.prod(weight.shape[equation.weight.index(letter)] for letter in equation.inputs)
    n = math.prod(axes.outputs)
    matrix, transposed = _matrix(weight, equation, k, n)
    readable, columns = _read_as(equation)
    return (
        Target(
            name=node.name,
            node=node,
            weight=matrix,
            n=n,
            k=k,
            transposed=transposed,
            alpha=1.0,
            scale_type=SCALE_TYPES[type_name(weight.type)],
            source=node.inputs[1 - constant] if readable else "",
            source_transposed=columns,
            axes=axes,
        ),
    )


def _refuse_sizes(equation: Equation, weight: Constant, sizes: Sequence[int | None]) -> None:
    if len(equation.weight) != len(weight.shape):
        raise OddEquationError(f"its constant has {len(weight.shape)} dimensions, not {len(equation.weight)}")
    for letter in equation.inputs:
        if weight.shape[equation.weight.index(letter)] == 1:  # Einsum repeats such an axis as often as need be
            raise OddEquationError(f"'{letter}' has size 1 in the constant, and any size in the activations")
        if len(sizes) == len(equation.activations) and sizes[equation.activations.index(letter)] == 1:
            raise OddEquationError(f"'{letter}' has size 1 in the activations, which repeats them")


def _matrix(weight: Constant, equation: Equation, k: int, n: int) -> tuple[Constant, bool]:
    """The constant as a matrix, and whether that is [K, N] instead of [N, K]; no axis moves where none must."""
    plain = equation.weight == equation.inputs + equation.outputs
    wanted = equation.inputs + equation.outputs if plain else equation.outputs + equation.inputs
    way = weight.way.then(Transpose(tuple(equation.weight.index(letter) for letter in wanted)))
    return replace(weight, way=way.then(Reshape((k, n) if plain else (n, k)))), plain


def _read_as(equation: Equation) -> tuple[bool, bool]:
    """Whether the activations are rows [..., K], whose last axes may be K together, or [..., K, tokens]."""
    columns = equation.activations[-2:-1] == tuple(equation.inputs) and equation.activations[-1] != "..."
    return not equation.turned or columns, equation.turned and columns
