"""Which constants a run has to read as a whole, whatever its inputs."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import TensorProto

from onnxfq.graph.bodies import Body, Node
from onnxfq.graph.loaded import HALF
from onnxfq.graph.model import Graph
from onnxfq.graph.tensors import describe

# Operators that read rows of some of their inputs only.
_TABLES = {"Gather": frozenset({0}), "GatherElements": frozenset({0}), "GatherBlockQuantized": frozenset({0, 2, 3})}
# Operators on constants that are computed once, when the model is loaded.
_FOLDED = frozenset({"Cast", "Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "DequantizeLinear"})


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
    return sum((2 if widens and p.data_type in HALF else 1) * describe(p, graph.path, p.name).nbytes for p in read)


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
