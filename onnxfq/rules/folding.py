"""Scaling a stage's inputs inside the normalisation layer that computes them, at no cost when the model runs.

    x = γ·x̂ + β, W x   →   x′ = (γ/s)·x̂ + β/s, (W·s) x′

Source: J. Lin et al., "AWQ: Activation-aware Weight Quantization", 2023, section 3.2.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from onnxfq.graph import Constant, Flow, Graph, Node, Spool
from onnxfq.rules.norms import OPERATORS
from onnxfq.rules.target import Target

Float64Array = npt.NDArray[np.float64]


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
    alone = source not in outputs and all(id(r.node.proto) in own for r in flow.readers[source])
    if step is None or not alone or step.node.outputs[0] != source:
        return None
    places = _places(graph, flow, step.node, targets[0].k)
    return Fold(places) if places and not any(graph.edits.replacement(node) for node, _ in places) else None


def fold(graph: Graph, found: Fold, scale: Float64Array, spool: Spool) -> list[Constant]:
    """Divide by a scale [K] what a stage's inputs are made with.

    Returns:
        The constants that nodes have read and may read no more.
    """
    renamed: dict[int, tuple[Node, dict[int, str]]] = {}
    abandoned = []
    for node, index in found.places:
        value = graph.constant(node, index)
        if not isinstance(value, Constant):
            continue
        row = value.load()
        scaled = row.astype(np.float64) / scale.reshape((-1,) if row.ndim < 2 else (*(1,) * (row.ndim - 1), -1))
        name = graph.add_tensor(node.body, f"{node.inputs[index]}_folded", spool, scaled.astype(row.dtype))
        renamed.setdefault(id(node.proto), (node, {}))[1][index] = name
        abandoned.append(value)
    for node, names in renamed.values():
        copy = graph.rewired(node, names)
        graph.replace(node, [copy], heir=copy)
    return abandoned


def _places(graph: Graph, flow: Flow, node: Node, k: int) -> list[tuple[Node, int]]:
    if node.op_type in OPERATORS:
        gamma, beta = OPERATORS[node.op_type]
        wanted = [gamma] if beta is None or beta >= len(node.inputs) or not node.inputs[beta] else [gamma, beta]
        return [(node, i) for i in wanted] if all(_is_vector(graph, node, i, k) for i in wanted) else []
    if node.op_type == "Mul":
        return [(node, i) for i in (0, 1) if _is_vector(graph, node, i, k)][:1]
    if node.op_type != "Add":
        return []
    for index in (0, 1):
        inner = flow.writers.get(node.inputs[1 - index])
        if not _is_vector(graph, node, index, k) or inner is None or inner.node.op_type != "Mul":
            continue
        rest = _places(graph, flow, inner.node, k)
        if rest and len(flow.readers[node.inputs[1 - index]]) == 1:
            return [(node, index), *rest]
    return []


def _is_vector(graph: Graph, node: Node, index: int, k: int) -> bool:
    value = graph.constant(node, index)
    return isinstance(value, Constant) and value.shape[-1:] == (k,) and int(np.prod(value.shape)) == k
