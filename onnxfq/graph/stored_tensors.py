"""Every constant of a model once, with its bytes and with the nodes that read it, through the detours between."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from onnx import TensorProto

from onnxfq.graph.bodies import Body, Node
from onnxfq.graph.model import Graph
from onnxfq.graph.tensors import read_header
from onnxfq.graph.weight_chain import is_detour

_MOST_FOLLOWED = 1000  # names on the way from one constant to its readers
_Name = tuple[Body, str]
_Uses = Mapping[_Name, list[tuple[Node, int]]]


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """A constant of a graph, of a subgraph, or of a function, and what it is used for.

    Attributes:
        home: the scope it stands in.
        name: of the initializer, or of the output of the Constant node that holds it.
        shape: dimensions as stored.
        nbytes: bytes it takes in the model's files.
        readers: nodes and the position among their inputs; nodes that only turn it or give it another shape or type,
            and calls of local functions, are followed to those that compute with it.
    """

    home: Body = field(repr=False)
    name: str
    shape: tuple[int, ...]
    nbytes: int
    readers: tuple[tuple[Node, int], ...] = field(repr=False)


def stored_tensors(graph: Graph, without: Iterable[_Name] = ()) -> Iterator[StoredTensor]:
    """All constants; bytes that several of them share count for the first.

    Args:
        graph: the model.
        without: constants to leave out, by scope and name.
    """
    uses = _uses(graph)
    functions = {(b.proto.domain, b.proto.name): b for b in graph.bodies if b.is_function and b.parent is None}
    left_out, seen = set(without), set[Hashable]()
    for body in graph.bodies:
        for name, protos in _constants(body):
            if (body, name) in left_out:
                continue
            headers = [read_header(proto, graph.path, name) for proto in protos]
            new = [h for h in headers if h.piece is None or h.piece not in seen]
            seen.update(h.piece for h in headers if h.piece is not None)
            readers = tuple(_readers((body, name), uses, functions))
            yield StoredTensor(body, name, headers[0].shape, sum(h.nbytes for h in new), readers)


def _constants(body: Body) -> Iterator[tuple[str, list[TensorProto]]]:
    """Names and what is stored of each: one tensor, or the values and the indices of a sparse one."""
    for name, proto in body.initializers.items():
        yield name, [proto]
    for name, sparse in body.sparse.items():
        yield name, [sparse.values, sparse.indices]
    for proto in body.proto.node:
        value = Node(proto, body).attributes.get("value") if proto.op_type == "Constant" else None
        if isinstance(value, TensorProto) and proto.output:
            yield str(proto.output[0]), [value]


def _uses(graph: Graph) -> _Uses:
    """The nodes that name a value, by the scope that defines it."""
    found: defaultdict[_Name, list[tuple[Node, int]]] = defaultdict(list)
    for node in graph.nodes():
        for index, name in enumerate(node.inputs):
            home = node.body.home_of(name) if name else None
            if home is not None:
                found[home, name].append((node, index))
    return found


def _readers(start: _Name, uses: _Uses, functions: Mapping[tuple[str, str], Body]) -> Iterator[tuple[Node, int]]:
    pending, seen = [start], {start}
    while pending and len(seen) < _MOST_FOLLOWED:
        for node, index in uses.get(pending.pop(), ()):
            called = functions.get((node.proto.domain, node.op_type))
            if called is not None:
                after = [(called, str(name)) for name in called.proto.input[index : index + 1]]
            elif is_detour(node) and index == 0:
                after = [(node.body, node.outputs[0])]
            else:
                yield node, index
                continue
            pending += [name for name in after if name not in seen]
            seen.update(after)
