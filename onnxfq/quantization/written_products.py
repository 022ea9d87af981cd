"""The quantized products of a written model, with their weights decoded, for tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxfq.arrays import Float32Array
from onnxfq.graph import Constant, Graph, Node, read_constant
from onnxfq.quantization.expected import Expected
from onnxfq.quantized import QuantizedWeight
from onnxfq.rules.matmul_nbits import MatMulNBits
from onnxfq.rules.rule import Tensors

_CODES, _SCALES = 1, 2  # positions of inputs


@dataclass(frozen=True, slots=True)
class WrittenProducts:
    """Products with float weights in their place.

    Attributes:
        outputs: the name of each product's weight, by the node's first output.
        grids: weights whose scales nothing else reads, by name.
        scales: the tensor that holds the scales of each of those.
        fixed: the other weights [K, N].
    """

    outputs: dict[str, str] = field(default_factory=dict)
    grids: dict[str, QuantizedWeight] = field(default_factory=dict)
    scales: dict[str, str] = field(default_factory=dict)
    fixed: dict[str, Float32Array] = field(default_factory=dict)


def read_products(graph: Graph, expected: Sequence[Expected]) -> WrittenProducts:
    """Those of the main graph that this run has written.

    Args:
        graph: the written model.
        expected: what it holds.
    """
    known = {entry.codes: entry for entry in expected if isinstance(entry.rule, MatMulNBits) and not entry.stacked}
    main, operator = graph.bodies[0], MatMulNBits.operator
    elsewhere = {output.name for output in graph.model.graph.output} | {
        name for node in graph.nodes() if node.op_type != operator or node.body is not main for name in node.inputs
    }
    found = WrittenProducts()
    for node in graph.nodes():
        entry = known.get(leaf_name(graph, node, _CODES)) if node.op_type == operator and node.body is main else None
        if entry is None:
            continue
        name = found.outputs[node.outputs[0]] = float_name(entry)
        if name in found.grids or name in found.fixed:
            continue
        q, scales = _decoded(graph, node, entry), node.inputs[_SCALES]
        if scales in main.initializers and scales not in elsewhere and q.scale_type == "float32":
            found.grids[name], found.scales[name] = q, scales
        else:
            found.fixed[name] = np.ascontiguousarray(q.dequantize().T)
    return found


def float_name(entry: Expected) -> str:
    """What the decoded weight is called."""
    return f"{entry.codes}/float"


def _decoded(graph: Graph, node: Node, entry: Expected) -> QuantizedWeight:
    layout = entry.rule.layout(entry.n, entry.k, entry.kernel)
    names = entry.rule.written_names(graph, node, entry.slot)
    tensors: Tensors = {
        name: np.asarray(read_constant(node.body, value, graph.path)).reshape(layout[name][0])
        for name, value in names.items()
    }
    return entry.rule.unpack(tensors, entry.kernel, entry.k)


def leaf_name(graph: Graph, node: Node, index: int) -> str:
    """The tensor that an input is, or is made of."""
    name = node.inputs[index]
    value = graph.constant(node, index) if name else None
    return value.leaf.name if isinstance(value, Constant) else name
