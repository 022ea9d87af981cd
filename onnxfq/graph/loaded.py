"""How much memory constants take once a session has loaded them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from onnx import TensorProto

from onnxfq.graph.flow import Flow, Step
from onnxfq.graph.iter_tensors import tensors
from onnxfq.graph.model import Graph
from onnxfq.graph.tensors import describe

HALF = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
_AS_IT_IS = 2  # bytes for a byte: the constant, and the copy that kernels pack
_WIDENED = 3  # the CPU computes with single precision: half precision is widened


def loaded_bytes(graph: Graph, *, widens: bool) -> int:
    """About what a session of the whole model takes.

    Args:
        graph: the model.
        widens: whether kernels turn half precision into single.
    """
    return sum(_loaded(held.proto, graph, widens=widens) for held in tensors(graph.model))


def partition(graph: Graph, flow: Flow, steps: Iterable[Step], limit: int, *, widens: bool) -> list[Sequence[Step]]:
    """Consecutive steps whose constants together take at most `limit` bytes once loaded; a step alone may take more.

    Steps that depend on no input are left out: they belong to whatever reads them.

    Args:
        graph: the model.
        flow: its data flow.
        steps: in order.
        limit: in bytes.
        widens: as in `loaded_bytes`.
    """
    parts: list[list[Step]] = [[]]
    behind: dict[str, set[str]] = {name: {name} for name in flow.constants}  # what is made of constants, of which
    present: set[str] = set()
    taken = 0
    for step in steps:
        needed = {constant for name in step.reads for constant in behind.get(name, ())}
        if flow.static.issuperset(step.writes):  # run again wherever it is wanted
            behind.update(dict.fromkeys(step.writes, needed))
            continue
        new = needed - present
        count = sum(_loaded(flow.constants[name], graph, widens=widens) for name in new)
        if parts[-1] and count and taken + count > limit:
            parts.append([])
            present.clear()
            taken = 0
        parts[-1].append(step)
        present.update(new)
        taken += count
    return [part for part in parts if part]


def _loaded(proto: TensorProto, graph: Graph, *, widens: bool) -> int:
    times = _WIDENED if widens and proto.data_type in HALF else _AS_IT_IS
    return times * describe(proto, graph.path).nbytes
