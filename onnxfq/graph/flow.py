"""A model's data flow: which step reads which values, with the branches of decided Ifs opened up."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from onnx import GraphProto, NodeProto, SparseTensorProto, TensorProto

from onnxfq.graph.bodies import Body, Node
from onnxfq.graph.model import Graph, make_node

_RANDOM = ("Random", "Bernoulli", "Multinomial", "Dropout")

Decide = Callable[[str], bool | None]  # the value that the condition of an If always has, if it has one


@dataclass(frozen=True, eq=False)
class Step:
    """One node of the flow.

    Attributes:
        node: the node; for what an opened If returns, an Identity that stands nowhere in the model.
        reads: names it needs, those that its subgraphs capture included.
        writes: names it computes.
    """

    node: Node = field(repr=False)
    reads: tuple[str, ...]
    writes: tuple[str, ...]


class Flow:
    """The steps of a model's main graph in order.

    Args:
        graph: the model, before its edits are carried out.
        decide: tells the value of an If's condition; None for what may go either way, which then stays one step.
        fed: inputs that are fed, whatever values of their own they have.

    Attributes:
        steps: in an order in which they can run.
        bodies: the scopes whose nodes are steps.
        constants: tensors by name, of all these scopes.
        read_elsewhere: names that branches read which are never taken; other callers may take them.
    """

    def __init__(self, graph: Graph, decide: Decide = lambda name: None, fed: Collection[str] = ()) -> None:
        self._graph, self._decide = graph, decide
        self._taken: set[str] = set()
        self.bodies: list[Body] = []
        self.constants: dict[str, TensorProto | SparseTensorProto] = {}
        self.read_elsewhere: set[str] = set()
        self._scopes = {id(body.proto): body for body in graph.bodies}
        self.steps = list(self._open(graph.bodies[0]))
        for name in fed:
            self.constants.pop(name, None)

    @cached_property
    def writers(self) -> dict[str, Step]:
        """The step that computes each name."""
        return {name: step for step in self.steps for name in step.writes}

    @cached_property
    def readers(self) -> dict[str, list[Step]]:
        """The steps that read each name."""
        found: dict[str, list[Step]] = {}
        for step in self.steps:
            for name in step.reads:
                found.setdefault(name, []).append(step)
        return found

    @cached_property
    def static(self) -> frozenset[str]:
        """Names that are computed again wherever they are wanted.

        They depend on no input, or are no arrays, which cannot be kept between two runs.
        """
        fixed, no_arrays = set[str](), set[str]()
        for step in self.steps:
            if not all(self._graph.is_array(step.node, name) for name in step.writes):
                no_arrays.update(step.writes)
            elif not step.node.op_type.startswith(_RANDOM) and all(
                n in fixed or n in self.constants for n in step.reads
            ):
                fixed.update(step.writes)
        return frozenset(fixed | no_arrays)

    def ancestors(self, names: Sequence[str]) -> list[Step]:
        """The steps that these names depend on, in order."""
        pending, wanted = list(names), set[int]()
        while pending:
            step = self.writers.get(pending.pop())
            if step is not None and id(step) not in wanted:
                wanted.add(id(step))
                pending += step.reads
        return [step for step in self.steps if id(step) in wanted]

    def ordered(self, steps: Iterable[Step]) -> tuple[Step, ...]:
        """Steps in an order in which they can run, each once."""
        return tuple(sorted({id(s): s for s in steps}.values(), key=lambda step: self._position[id(step)]))

    @cached_property
    def _position(self) -> dict[int, int]:
        return {id(step): position for position, step in enumerate(self.steps)}

    def _open(self, body: Body) -> Iterator[Step]:
        self.bodies.append(body)
        self.constants.update(body.initializers)
        self.constants.update(body.sparse)
        self._taken.update(body.inputs, body.initializers, body.producers, body.sparse)
        for proto in body.proto.node:
            node = Node(proto, body)
            if node.op_type == "Constant" and not node.domain and node.inputs == () and _value(proto) is not None:
                self.constants[node.outputs[0]] = _named(_value(proto), node.outputs[0])
                continue
            branch = self._branch(node)
            if branch is None:
                yield Step(node, tuple(reads(proto)), tuple(name for name in proto.output if name))
                continue
            yield from self._open(branch)
            for inner, outer in zip(branch.proto.output, node.outputs, strict=True):
                if inner.name == outer:  # as in optimum's merged decoders: the branch itself computes it
                    continue
                identity = make_node("Identity", [inner.name], [outer])
                yield Step(Node(identity, branch), (inner.name,), (outer,))

    def _branch(self, node: Node) -> Body | None:
        """The body of the branch that an If always takes; None for other nodes, or where names would collide."""
        if node.op_type != "If" or node.domain:
            return None
        decided = self._decide(node.inputs[0])
        wanted = "then_branch" if decided else "else_branch"
        graphs = [a.g for a in node.proto.attribute if a.name == wanted]
        if decided is None or not graphs or len(graphs[0].output) != len(node.outputs):
            return None
        branch = self._scopes.get(id(graphs[0]))
        if branch is None or self._collides(branch, node):
            return None
        self.read_elsewhere.update(*(captured(a.g) for a in node.proto.attribute if a.name != wanted))
        return branch

    def _collides(self, branch: Body, node: Node) -> bool:
        """Whether names of a branch stand for something else too; an output may be named as the If calls it."""
        alike = {i.name for i, o in zip(branch.proto.output, node.outputs, strict=True) if i.name == o}
        own = {*branch.initializers, *branch.producers, *branch.sparse}
        return not own.isdisjoint(self._taken - alike)


def reads(proto: NodeProto) -> Iterator[str]:
    """What a node reads, the names that its subgraphs take from outside included."""
    yield from dict.fromkeys(name for name in proto.input if name)
    for attribute in proto.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from captured(graph)


def captured(graph: GraphProto) -> list[str]:
    """Names that a subgraph takes from the scopes around it."""
    own = {i.name for i in graph.input} | {t.name for t in graph.initializer}
    own |= {name for node in graph.node for name in node.output}
    read = [name for node in graph.node for name in reads(node)] + [output.name for output in graph.output]
    return [name for name in dict.fromkeys(read) if name not in own]


def _value(proto: NodeProto) -> TensorProto | None:
    held = proto.attribute[0] if len(proto.attribute) == 1 else None
    return held.t if held and held.name == "value" and not held.ref_attr_name else None


def _named(proto: TensorProto | None, name: str) -> TensorProto:
    copy = TensorProto()
    if proto is not None:
        copy.CopyFrom(proto)
    copy.name = name
    return copy
