"""Scaling a stage's inputs inside the normalization layer that computes them, at no cost when the model runs.

    x = γ·x̂ + β, W x   →   x′ = (γ/s)·x̂ + β/s, (W·s) x′

Any product with a constant vector, as in layers that an export spells out, will do as well.

Source: J. Lin et al., "AWQ: Activation-aware Weight Quantization", 2023, section 3.2.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxfq.arrays import Float64Array
from onnxfq.graph import MICROSOFT, Constant, Flow, Graph, Node, TensorFile
from onnxfq.rules.norms import OPERATORS
from onnxfq.rules.target import Target

_SHAPE_ONLY = frozenset({"Shape", "Size"})


@dataclass(frozen=True, eq=False)
class Fold:
    """Constants that all of a stage's inputs are made with.

    Attributes:
        places: nodes, each with the position of a vector [K] among its inputs.
    """

    places: Sequence[tuple[Node, int]] = field(repr=False)


def find_fold(
    graph: Graph, flow: Flow, source: str, targets: Sequence[Target], outputs: Collection[str]
) -> Fold | None:
    """Where a stage's inputs can be scaled; None where no layer allows it, or others read them too.

    Args:
        graph: the model.
        flow: its data flow.
        source: the tensor that the stage reads.
        targets: all of the stage.
        outputs: names that the model returns.
    """
    own = {id(target.node.proto) for target in targets}
    step = flow.writers.get(source)
    if step is None or step.node.outputs[0] != source or not _is_read_by(flow, source, own, outputs):
        return None
    places = _places(graph, flow, step.node, targets[0].k, outputs)
    return Fold(places) if places and not any(graph.edits.replacement(node) for node, _ in places) else None


def fold(graph: Graph, found: Fold, scale: Float64Array, tensor_file: TensorFile) -> None:
    """Divide by a scale [K] what a stage's inputs are made with."""
    renamed: dict[int, tuple[Node, dict[int, str]]] = {}
    for node, index in found.places:
        value = graph.constant(node, index)
        if not isinstance(value, Constant):
            continue
        row = value.load()
        scaled = row.astype(np.float64) / scale.reshape((-1,) if row.ndim < 2 else (*(1,) * (row.ndim - 1), -1))
        name = graph.add_tensor(node.body, f"{node.inputs[index]}_folded", tensor_file, scaled.astype(row.dtype))
        renamed.setdefault(id(node.proto), (node, {}))[1][index] = name
    for node, names in renamed.values():
        copy = graph.rewired(node, names)
        graph.replace(node, [copy], keeps_name=copy)


def _is_read_by(flow: Flow, name: str, own: Collection[int], outputs: Collection[str]) -> bool:
    """Whether only these nodes read a value, as their first input alone; others may look at its shape."""
    if name in outputs or name in flow.read_elsewhere:
        return False
    readers = [step.node for step in flow.readers[name] if step.node.op_type not in _SHAPE_ONLY]
    return all(id(node.proto) in own and node.inputs.count(name) == 1 for node in readers)


def _places(graph: Graph, flow: Flow, node: Node, k: int, outputs: Collection[str]) -> list[tuple[Node, int]]:
    if node.domain not in ("", MICROSOFT):
        return []
    if node.op_type in OPERATORS:
        gamma, beta = OPERATORS[node.op_type]
        wanted = [gamma] if beta is None or beta >= len(node.inputs) or not node.inputs[beta] else [gamma, beta]
        return [(node, i) for i in wanted] if all(_is_vector(graph, node, i, k) for i in wanted) else []
    if node.op_type == "Mul":
        return [(node, i) for i in (0, 1) if _is_vector(graph, node, i, k)][:1]
    if node.op_type != "Add":
        return []
    for index in (0, 1):
        rest = node.inputs[1 - index]
        inner = flow.writers.get(rest)
        if not _is_vector(graph, node, index, k) or inner is None or inner.node.op_type != "Mul":
            continue
        places = _places(graph, flow, inner.node, k, outputs)
        if places and _is_read_by(flow, rest, {id(node.proto)}, outputs):
            return [(node, index), *places]
    return []


def _is_vector(graph: Graph, node: Node, index: int, k: int) -> bool:
    value = graph.constant(node, index)
    return isinstance(value, Constant) and value.shape[-1:] == (k,) and int(np.prod(value.shape)) == k
