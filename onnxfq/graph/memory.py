"""How much memory constants take: once a session has loaded them, and what every run has to read of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from onnx import TensorProto

from onnxfq.graph.bodies import Body, Node
from onnxfq.graph.flow import Flow, Step
from onnxfq.graph.iter_tensors import iter_tensors
from onnxfq.graph.model import Graph
from onnxfq.graph.tensors import read_header

HALF = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
_AS_IT_IS = 2  # bytes for a byte: the constant, and the copy that kernels pack
_WIDENED = 3  # the CPU computes with single precision: half precision is widened
# Operators that read rows of some of their inputs only.
_TABLES = {"Gather": frozenset({0}), "GatherElements": frozenset({0}), "GatherBlockQuantized": frozenset({0, 2, 3})}
# Operators on constants that are computed once, when the model is loaded.
_FOLDED = frozenset({"Cast", "Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "DequantizeLinear"})


def loaded_bytes(graph: Graph, *, widens: bool) -> int:
    """About what a session of the whole model takes.

    Args:
        graph: the model.
        widens: whether kernels turn half precision into single.
    """
    return sum(_loaded(held.proto, graph, widens=widens) for held in iter_tensors(graph.model))


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
    return times * read_header(proto, graph.path).nbytes


def weight_bytes(graph: Graph, *, widens: bool) -> int:
    """Bytes of all constants but the tables that only rows are looked up in, each counted once.

    Branches that are not taken count too: exports share their constants.

    Args:
        graph: the model.
        widens: whether half precision is turned into single when the model is loaded, as on a CPU.
    """
    nodes = list(graph.nodes())
    readers: dict[str, list[tuple[Node, int]]] = {}
    for node in nodes:
        for index, name in enumerate(node.inputs):
            readers.setdefault(name, []).append((node, index))
    constants = {name: proto for body in graph.bodies for name, proto in _constants(body)}
    read = (proto for name, proto in constants.items() if _is_read(name, readers))
    return sum((2 if widens and p.data_type in HALF else 1) * read_header(p, graph.path, p.name).nbytes for p in read)


def _constants(body: Body) -> Iterator[tuple[str, TensorProto]]:
    yield from body.initializers.items()
    for proto in body.proto.node:
        value = Node(proto, body).attributes.get("value") if proto.op_type == "Constant" else None
        if isinstance(value, TensorProto):
            yield proto.output[0], value


def _is_read(name: str, readers: dict[str, list[tuple[Node, int]]]) -> bool:
    """Whether some node needs all of a constant."""
    for node, index in readers.get(name, ()):
        if node.op_type in _FOLDED:
            if any(_is_read(output, readers) for output in node.outputs):
                return True
        elif index not in _TABLES.get(node.op_type, ()):
            return True
    return False
