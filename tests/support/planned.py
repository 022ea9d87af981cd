"""Targets found and planned, and weights put into a graph, one step at a time."""

from __future__ import annotations

from collections.abc import Sequence

from onnxfq.graph import Graph, TensorFile
from onnxfq.options import Options
from onnxfq.providers import ProviderName
from onnxfq.quantization.assign import Planned, assign
from onnxfq.quantization.find import find
from onnxfq.quantized import QuantizedWeight
from onnxfq.rules import Skip, Target, WrittenWeight
from onnxfq.scheme import Scheme


def targets_of(graph: Graph, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[Target]:
    """All targets of a model."""
    return [target for _, target in find(graph, include, exclude)[0]]


def planned(
    graph: Graph, scheme: Scheme, provider: ProviderName = "cpu", *, allow_slow: bool = False
) -> tuple[list[Planned], list[Skip]]:
    """All targets of a model with their kernels, and those left alone for their shape."""
    return assign(find(graph, (), ())[0], Options(scheme=scheme, allow_slow=allow_slow), provider)


def put(graph: Graph, planned: Planned, q: QuantizedWeight, tensor_file: TensorFile) -> None:
    """Store a quantized weight and replace its node."""
    target = planned.target
    tensors = planned.rule.pack(q, planned.kernel)
    names = {
        name: graph.add_tensor(target.weight.home, f"{target.weight.leaf.name}_{name}", tensor_file, array)
        for name, array in tensors.items()
    }
    planned.rule.rewrite(graph, [WrittenWeight(target, planned.kernel, names)], tensor_file)
