"""Every constant of a model once, with its bytes and with the nodes that read it, through the detours between."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field

from onnx import TensorProto

from onnxfq.graph.bodies import Body, Node
from onnxfq.graph.constant_makers import constant_makers, holds_codes, stored_codes
from onnxfq.graph.model import Graph
from onnxfq.graph.tensors import read_header
from onnxfq.graph.weight_chain import is_detour

_MOST_FOLLOWED = 1000  # names on the way from one constant to its readers
_Name = tuple[Body, str]
_SPELLED_OUT = frozenset({"DequantizeLinear", "QuantizeLinear", "MatMul", "Gemm", "Einsum"})  # these are the readers


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """A constant of a graph, of a subgraph, or of a function, and what it is used for.

    Attributes:
        home: the scope it stands in.
        name: of the initializer, or of the output of the Constant node that holds it.
        shape: dimensions as stored.
        nbytes: bytes it takes in the model's files.
        readers: nodes and the position among their inputs; nodes that only turn it or give it another shape or type,
            that make a quantized weight of it, calls of local functions and loops are followed to those that compute
            with it.
        codes: it is a quantized weight's, or of a type such as these have.
    """

    home: Body = field(repr=False)
    name: str
    shape: tuple[int, ...]
    nbytes: int
    readers: tuple[tuple[Node, int], ...] = field(repr=False)
    codes: bool = False


def stored_tensors(graph: Graph, without: Iterable[_Name] = ()) -> Iterator[StoredTensor]:
    """All constants; bytes that several of them share count for the first.

    Args:
        graph: the model.
        without: constants to leave out, by scope and name.
    """
    ways = _Ways(graph)
    left_out, seen = set(without), set[Hashable]()
    for body in graph.bodies:
        for name, protos in _constants(body):
            if (body, name) in left_out:
                continue
            headers = [read_header(proto, graph.path, name) for proto in protos]
            new = [h for h in headers if h.piece is None or h.piece not in seen]
            seen.update(h.piece for h in headers if h.piece is not None)
            readers, coded = ways.readers((body, name))
            codes = coded or holds_codes(headers[0].type)
            yield StoredTensor(body, name, headers[0].shape, sum(h.nbytes for h in new), readers, codes)


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


class _Ways:
    """Who uses which value, through whatever hands it on unchanged.

    Args:
        graph: the model.
    """

    def __init__(self, graph: Graph) -> None:
        self._uses: defaultdict[_Name, list[tuple[Node, int]]] = defaultdict(list)
        self._bodies = {id(body.proto): body for body in graph.bodies}
        roots = (body for body in graph.bodies if body.is_function and body.parent is None)
        self._functions = {(body.proto.domain, body.proto.name): body for body in roots}
        static = {(body, name) for body in graph.bodies for name in (*body.initializers, *body.sparse)}
        self._coded = dict[int, bool]()  # by node, of those that depend on constants alone
        for node in graph.nodes():
            names = [(home, name) for name in node.inputs if name and (home := node.body.home_of(name)) is not None]
            for index, name in enumerate(node.inputs):
                if name and (home := node.body.home_of(name)) is not None:
                    self._uses[home, name].append((node, index))
            if all(name in static for name in names):
                static.update((node.body, name) for name in node.outputs)
                self._coded[id(node.proto)] = bool(names)

    def readers(self, start: _Name) -> tuple[tuple[tuple[Node, int], ...], bool]:
        """The nodes that compute with a constant, and whether it makes a quantized weight with others before."""
        pending, seen, found, coded = [start], {start}, list[tuple[Node, int]](), False
        while pending and len(seen) < _MOST_FOLLOWED:
            for node, index in self._uses.get(pending.pop(), ()):
                after = self._handed_on(node, index)
                if after is None and self._makes_codes(node):
                    after, coded = [(node.body, node.outputs[0])], True
                if after is None:
                    found.append((node, index))
                    continue
                pending += [name for name in after if name not in seen]
                seen.update(after)
        return tuple(found), coded

    def _handed_on(self, node: Node, index: int) -> list[_Name] | None:
        """What else a value is called that a node reads; None where the node computes with it."""
        called = self._functions.get((node.proto.domain, node.op_type))
        if called is None and node.op_type in ("Loop", "Scan") and not node.domain:
            graphs = [attribute.g for attribute in node.proto.attribute if attribute.name == "body"]
            called = self._bodies.get(id(graphs[0])) if graphs else None
        if called is not None:
            names = (item if isinstance(item, str) else item.name for item in called.proto.input[index : index + 1])
            return [(called, name) for name in names]
        return [(node.body, node.outputs[0])] if is_detour(node) and index == 0 else None

    def _makes_codes(self, node: Node) -> bool:
        """Whether a node makes a weight of codes, as a chain of operators spells it."""
        if self._coded.get(id(node.proto)):
            follows = node.op_type not in _SPELLED_OUT and not is_detour(node)
            self._coded[id(node.proto)] = follows and bool(stored_codes(constant_makers(node)))
        return self._coded.get(id(node.proto), False)
