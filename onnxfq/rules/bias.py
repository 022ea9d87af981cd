"""The bias behind a target, which can take up the mean of the error that quantizing leaves.

    MatMul(A, B) → Add(·, bias)        Gemm(A, B, bias)

Source: M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, section 4.2.
Differs: the mean error is measured on calibration data, and solvers minimise what remains about it.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Float64Array
from onnxfq.graph import Constant, Flow, Graph, Node, TensorFile, make_node
from onnxfq.rules.target import Target


@dataclass(frozen=True, eq=False)
class Bias:
    """A constant that is added to every row of a target's output.

    Attributes:
        node: the Add, or the target's own Gemm.
        value: the constant.
    """

    node: Node = field(repr=False)
    value: Constant = field(repr=False)

    @property
    def output(self) -> str:
        """The name of the sum."""
        return self.node.outputs[0]


def find_bias(graph: Graph, flow: Flow, target: Target, outputs: Collection[str]) -> Bias | None:
    """The bias of a target; None where it has none, or where others see the product without it.

    Args:
        graph: the model.
        flow: its data flow, in which the target is a step.
        target: whose bias.
        outputs: names that the model returns.
    """
    node = target.node
    if not target.last_axes:  # a row that is added runs across the outputs
        return None
    if len(node.inputs) > 2 and node.inputs[2]:
        value = _row(graph, node, 2, target.last_axes)
        return Bias(node, value) if value is not None and node.real("beta", 1.0) else None
    readers = flow.readers.get(node.outputs[0], [])
    if len(readers) != 1 or node.outputs[0] in outputs or node.outputs[0] in flow.read_elsewhere:
        return None
    add = readers[0].node
    if add.op_type != "Add" or add.domain or add.body is not node.body:
        return None
    for index in (0, 1):
        value = _row(graph, add, index, target.last_axes)
        if add.inputs[1 - index] == node.outputs[0] and value is not None:
            return Bias(add, value)
    return None


def bias_of(graph: Graph, node: Node) -> Bias:
    """The bias of a node that has one: an Add, or a target's own Gemm; of the same model, loaded anew."""
    index = _constant_input(graph, node) if node.op_type == "Add" else 2  # a Gemm's C
    value = graph.constant(node, index)
    assert isinstance(value, Constant)
    return Bias(node, value)


def shift_bias(graph: Graph, bias: Bias, shift: Float64Array, tensor_file: TensorFile) -> None:
    """Add a vector [N] to the bias of an Add."""
    node = bias.node
    index = _constant_input(graph, node)
    row = shifted(bias.value, shift).reshape(bias.value.shape)
    name = graph.add_tensor(node.body, f"{node.inputs[index]}_shifted", tensor_file, row)
    inputs = [name if i == index else other for i, other in enumerate(node.inputs)]
    add = make_node("Add", inputs, list(node.outputs))
    graph.replace(node, [add], keeps_name=add)


def _constant_input(graph: Graph, node: Node) -> int:
    return next(i for i in (0, 1) if isinstance(graph.constant(node, i), Constant))


def shifted(value: Constant, shift: Float64Array, factor: float = 1.0) -> npt.NDArray[np.generic]:
    """Factor · value + shift [N], in the type of the value."""
    row = value.load().reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):  # as in the original
        return np.asarray((row.astype(np.float64) * factor + shift).astype(row.dtype))


def _row(graph: Graph, node: Node, index: int, last_axes: tuple[int, ...]) -> Constant | None:
    """A constant input that is one row of as many values as the outputs are, in their axes."""
    value = graph.constant(node, index)
    if not isinstance(value, Constant) or value.shape[-len(last_axes) :] != last_axes:
        return None
    return value if math.prod(value.shape) == math.prod(last_axes) else None
