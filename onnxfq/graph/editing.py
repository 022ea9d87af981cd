"""Changes to a graph: collected first, then carried out all at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import cached_property

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from onnxfq.graph.bodies import Body, Node
from onnxfq.graph.constants import OVERRIDABLE_FROM_IR, Constant
from onnxfq.graph.merging import merge_equal
from onnxfq.graph.pruning import prune

# What a node says about its operator. Device configurations name its inputs, which become others; ONNX 1.17 lacks them.
_OF_THE_OPERATOR = sorted(
    {"op_type", "domain", "overload", "input", "output", "attribute", "device_configurations"}
    & set(NodeProto.DESCRIPTOR.fields_by_name)
)


class Edits:
    """Replacements and new constants of one model."""

    def __init__(self, bodies: list[Body]) -> None:
        self._bodies = bodies
        self._replaced: dict[int, tuple[Node, list[NodeProto]]] = {}
        self._mergeable: set[int] = set()  # ids of new nodes
        self._abandoned: list[Constant] = []
        self._constants: list[tuple[Body, TensorProto]] = []
        self._small: dict[tuple[int, str, bytes], str] = {}
        self._counts: Counter[tuple[int, str]] = Counter()
        self._made: dict[Hashable, tuple[Body, list[NodeProto]]] = {}  # by what they are made of
        self._tried: dict[str, int] = {}  # for names like these, so many were found taken

    @cached_property
    def _names(self) -> set[str]:
        return {name for body in self._bodies for name in _all_names(body)}

    def fresh_name(self, base: str) -> str:
        """A name like `base` that nothing in the model bears yet; taken from now on."""
        name, number = base, self._tried.get(base, 1)
        while name in self._names:
            name, number = f"{base}_{number}", number + 1
        self._tried[base] = number
        self._names.add(name)
        return name

    def add_constant(self, home: Body, proto: TensorProto) -> None:
        """Define a constant in a scope."""
        self._constants.append((home, proto))

    def made_constant(self, home: Body, origin: Hashable, make: Callable[[], list[NodeProto]]) -> str:
        """A constant that nodes make of others, once for all that ask for the same.

        Args:
            home: the scope.
            origin: what it is made of: equal for those who ask for the same.
            make: the nodes, the last of which gives it.
        """
        if origin not in self._made:
            self._made[origin] = home, make()
        return str(self._made[origin][1][-1].output[0])

    def ordinal(self, home: Body, value: str) -> int:
        """How often this was asked of a value of a scope before."""
        self._counts[id(home), value] += 1
        return self._counts[id(home), value] - 1

    def small_constant(self, home: Body, base: str, make: Callable[[str], TensorProto]) -> str:
        """A constant that many nodes may read, in each scope once.

        Args:
            home: the scope.
            base: what to call it if possible; equal constants under one such name are one.
            make: makes it, given its name.
        """
        key = id(home), base, make("").SerializeToString(deterministic=True)
        if key not in self._small:
            self._small[key] = self.fresh_name(base)
            self.add_constant(home, make(self._small[key]))
        return self._small[key]

    def replace(
        self,
        node: Node,
        new_nodes: list[NodeProto],
        keeps_name: NodeProto,
        abandoned: Iterable[Constant],
        mergeable: Iterable[NodeProto] = (),
    ) -> None:
        """Replace a node.

        Args:
            node: the node.
            new_nodes: what will stand in its place.
            keeps_name: the one of them that takes over its name and whatever else was said about it.
            abandoned: constants that it has read and they do not read.
            mergeable: those of them that need not be written again where others of its scope compute the same.
        """
        kept = NodeProto()
        kept.CopyFrom(node.proto)
        for field in _OF_THE_OPERATOR:
            kept.ClearField(field)
        keeps_name.MergeFrom(kept)
        self._replaced[id(node.proto)] = (node, new_nodes)
        self._mergeable.update(id(new) for new in mergeable)
        self._abandoned += abandoned

    def replacement(self, node: Node) -> list[NodeProto] | None:
        """The nodes that will stand in a node's place; None where it stays."""
        found = self._replaced.get(id(node.proto))
        return found[1] if found else None

    @property
    def constants(self) -> dict[str, TensorProto]:
        """The new constants by name."""
        return {proto.name: proto for _, proto in self._constants}

    def makers(self, names: Iterable[str]) -> list[NodeProto]:
        """The added nodes, in order, that make those of these names which are constants made of others."""
        wanted = set(names)
        return [node for _, nodes in self._made.values() if nodes[-1].output[0] in wanted for node in nodes]

    def apply(self, model: ModelProto) -> None:
        """Carry out everything, and drop constants that nothing reads any more."""
        mergeable = frozenset(self._mergeable)
        for body in self._bodies:
            found = (self._replaced.get(id(proto)) for proto in body.proto.node)
            merge_equal((new_nodes, mergeable) for _, new_nodes in filter(None, found))
            self._replace_in(body)
        for body, nodes in self._made.values():
            for offset, new in enumerate(nodes):
                body.proto.node.insert(offset, new)
        for body, proto in self._constants:
            _define(body, proto)
        if not self._replaced:
            return
        _modernize_inputs(model)
        self._import_domains(model)
        for body in self._bodies:
            body.forget()
        prune(model, self._bodies, self._abandoned)

    def _replace_in(self, body: Body) -> None:
        for index in range(len(body.proto.node) - 1, -1, -1):
            proto = body.proto.node[index]
            if id(proto) not in self._replaced:
                continue
            _, new_nodes = self._replaced[id(proto)]
            for offset, new in enumerate(new_nodes[1:], start=1):
                body.proto.node.insert(index + offset, new)
            proto.CopyFrom(new_nodes[0])

    def _import_domains(self, model: ModelProto) -> None:
        """Declare the new nodes' domains in the model, and in the functions that use them."""
        for node, new_nodes in self._replaced.values():
            root = node.body.root
            holders = [model, root.proto] if root.is_function else [model]
            for domain in {new.domain for new in new_nodes if new.domain}:
                for holder in holders:
                    if domain not in {known.domain for known in holder.opset_import}:
                        holder.opset_import.add(domain=domain, version=1)


def _all_names(body: Body) -> Iterator[str]:
    yield from body.initializers
    yield from body.inputs
    yield from body.sparse
    for info in body.proto.value_info:
        yield info.name
    for node in body.proto.node:
        yield node.name
        yield from node.input
        yield from node.output


def _define(body: Body, proto: TensorProto) -> None:
    if isinstance(body.proto, GraphProto):
        body.proto.initializer.append(proto)
        return
    constant = NodeProto(op_type="Constant", output=[proto.name])
    constant.attribute.append(AttributeProto(name="value", type=AttributeProto.TENSOR, t=proto))
    body.proto.node.insert(0, constant)


def _modernize_inputs(model: ModelProto) -> None:
    """Before IR version 4 every initializer had to be a graph input; from there on that means "may be overridden"."""
    if model.ir_version >= OVERRIDABLE_FROM_IR:
        return
    drop_defaults(model)
    model.ir_version = OVERRIDABLE_FROM_IR


def drop_defaults(model: ModelProto) -> None:
    """Take the graph inputs away that have a value of their own, which is then constant."""
    names = {t.name for t in model.graph.initializer} | {s.values.name for s in model.graph.sparse_initializer}
    kept = [i for i in model.graph.input if i.name not in names]
    if len(kept) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(kept)
