"""The scopes of a model: its graph, the bodies of If, Loop and Scan, and local functions, with what each defines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

MOST_DIMENSIONS = 32  # as many as every numpy takes; nobody has more
Value: TypeAlias = int | float | str | tuple[int, ...] | tuple[float, ...] | TensorProto | None


@dataclass(eq=False)
class Body:
    """One scope: a graph, a subgraph of a node, or a local function.

    Attributes:
        proto: the GraphProto or FunctionProto.
        parent: the scope whose names it may use too; None for the main graph and for functions.
        holder: the node and the attribute that a subgraph stands in.
    """

    proto: GraphProto | FunctionProto
    parent: Body | None = None
    holder: tuple[NodeProto, AttributeProto] | None = None

    @property
    def label(self) -> str:
        """For people: "" for the main graph, else where it is. Made when asked for: names may be of any length."""
        if isinstance(self.proto, FunctionProto):
            return f"function '{self.proto.domain}:{self.proto.name}'"
        if self.holder is None:
            return ""
        node, attribute = self.holder
        outer = f" in {self.parent.label}" if self.parent and self.parent.label else ""
        return f"{attribute.name} of {node.op_type} '{node.name or ','.join(node.output)}'{outer}"

    @property
    def is_function(self) -> bool:
        """Functions hold no initializers and see no outer names."""
        return isinstance(self.proto, FunctionProto)

    @cached_property
    def root(self) -> Body:
        """The outermost scope whose names this one sees."""
        return self.parent.root if self.parent else self

    @cached_property
    def initializers(self) -> dict[str, TensorProto]:
        """Initializers by name."""
        return {t.name: t for t in self.proto.initializer} if isinstance(self.proto, GraphProto) else {}

    @cached_property
    def inputs(self) -> frozenset[str]:
        """Names of the formal inputs."""
        return frozenset(i.name if isinstance(self.proto, GraphProto) else i for i in self.proto.input)

    @cached_property
    def literals(self) -> dict[str, TensorProto | None]:
        """What Constant nodes hold, by output, as far as it was looked at: such a list may be long, and often read."""
        return {}

    @cached_property
    def producers(self) -> dict[str, NodeProto]:
        """The node that computes each name."""
        return {name: node for node in self.proto.node for name in node.output if name}

    @cached_property
    def sparse(self) -> dict[str, SparseTensorProto]:
        """Sparse initializers by name."""
        return {s.values.name: s for s in self.proto.sparse_initializer} if isinstance(self.proto, GraphProto) else {}

    def home_of(self, name: str) -> Body | None:
        """The scope that defines a name, as seen from this one; None where nothing does."""
        body: Body | None = self
        while body is not None and not body.defines(name):
            body = body.parent
        return body

    def defines(self, name: str) -> bool:
        """Whether the name stands for something of this very scope."""
        return name in self.inputs or name in self.initializers or name in self.producers or name in self.sparse

    def forget(self) -> None:
        """Drop what was derived from the proto, after it was edited."""
        for name in ("initializers", "inputs", "literals", "producers", "sparse"):
            self.__dict__.pop(name, None)


@dataclass(frozen=True, eq=False)
class Node:
    """A node as rules see it.

    Attributes:
        proto: the message (rules read the fields below instead).
        body: the scope it stands in.
    """

    proto: NodeProto
    body: Body = field(repr=False)

    @property
    def op_type(self) -> str:
        """The operator's name."""
        return str(self.proto.op_type)

    @property
    def domain(self) -> str:
        """The operator's domain; "" for ONNX's own."""
        return str(self.proto.domain)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Input names; "" for an optional input left out."""
        return tuple(self.proto.input)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Output names."""
        return tuple(self.proto.output)

    @property
    def name(self) -> str:
        """What reports call it: its own name, or its first output's where it has none."""
        return str(self.proto.name) or next((str(o) for o in self.proto.output if o), "")

    @cached_property
    def attributes(self) -> Mapping[str, Value]:
        """Values by name; references to a function's attributes are in `references`, subgraphs are None."""
        return {name: _value(a) for name, a in self._by_name.items()}

    def integer(self, name: str, default: int) -> int:
        """An integer attribute; the default where it is absent or no integer."""
        found = self._by_name.get(name)
        return int(found.i) if found is not None and found.type == AttributeProto.INT else default

    def real(self, name: str, default: float) -> float:
        """A floating attribute; the default where it is absent or no number."""
        found = self._by_name.get(name)
        if found is None or found.type not in (AttributeProto.INT, AttributeProto.FLOAT):
            return default
        return float(found.i if found.type == AttributeProto.INT else found.f)

    def text(self, name: str) -> str:
        """A string attribute; "" where it is absent or no string."""
        value = self.attributes.get(name)
        return value if isinstance(value, str) else ""

    def integers(self, name: str) -> tuple[int, ...] | None:
        """An attribute that is a list of integers, one a dimension; None where it is absent or has too many."""
        found = self._by_name.get(name)
        if found is None or found.type != AttributeProto.INTS or len(found.ints) > MOST_DIMENSIONS:
            return None
        return tuple(int(v) for v in found.ints)

    def has(self, name: str) -> bool:
        """Whether an attribute is there, and its value not the caller's choice."""
        return name in self._by_name

    @cached_property
    def _by_name(self) -> dict[str, AttributeProto]:
        return {a.name: a for a in self.proto.attribute if not a.ref_attr_name}

    @property
    def references(self) -> tuple[str, ...]:
        """Attributes whose value the caller of the enclosing function chooses."""
        return tuple(a.name for a in self.proto.attribute if a.ref_attr_name)


def _value(attribute: AttributeProto) -> Value:
    kind = attribute.type
    if kind == AttributeProto.INT:
        return int(attribute.i)
    if kind == AttributeProto.FLOAT:
        return float(attribute.f)
    if kind == AttributeProto.STRING:
        return str(attribute.s.decode("utf-8", "replace"))
    if kind == AttributeProto.INTS:
        return tuple(int(v) for v in attribute.ints)
    if kind == AttributeProto.FLOATS:
        return tuple(float(v) for v in attribute.floats)
    return attribute.t if kind == AttributeProto.TENSOR else None


def bodies(model: ModelProto) -> list[Body]:
    """All scopes of a model, the main graph first."""
    found = scopes(model.graph)
    for function in model.functions:
        found += scopes(function)
    return found


def scopes(proto: GraphProto | FunctionProto) -> list[Body]:
    """A graph or function, and all subgraphs in it."""
    return list(_walk(Body(proto)))


def _walk(body: Body) -> Iterator[Body]:
    yield body
    for node in body.proto.node:
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _walk(Body(graph, body, (node, attribute)))
