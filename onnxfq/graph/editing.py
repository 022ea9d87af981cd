"""Changes to a graph: collected first, applied once, with everything that nothing reads any more removed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, MutableSequence
from typing import Any

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from onnxfq.graph.bodies import Body, Node
from onnxfq.graph.constants import Constant

_IR_WITHOUT_INPUT_INITIALIZERS = 4


class Edits:
    """Replacements and new constants of one model."""

    def __init__(self, bodies: list[Body]) -> None:
        self._bodies = bodies
        self._replaced: dict[int, tuple[Node, list[NodeProto]]] = {}
        self._constants: list[tuple[Body, TensorProto]] = []
        self._names = {name for body in bodies for name in _all_names(body)}

    def fresh_name(self, base: str) -> str:
        """A name like `base` that nothing in the model bears yet; taken from now on."""
        name, number = base, 1
        while name in self._names:
            name, number = f"{base}_{number}", number + 1
        self._names.add(name)
        return name

    def add_constant(self, home: Body, proto: TensorProto) -> None:
        """Define a constant in a scope."""
        self._constants.append((home, proto))

    def replace(self, node: Node, new_nodes: list[NodeProto]) -> None:
        """Replace a node; the one that keeps its name keeps its doc string and metadata too."""
        for new in new_nodes:
            if new.name == node.proto.name:
                new.doc_string = node.proto.doc_string
                new.metadata_props.extend(node.proto.metadata_props)
        self._replaced[id(node.proto)] = (node, new_nodes)

    def apply(self, model: ModelProto, abandoned: list[Constant]) -> None:
        """Carry out everything."""
        for body in self._bodies:
            self._replace_in(body)
        for body, proto in self._constants:
            _define(body, proto)
        for body in self._bodies:
            body.forget()
        if not self._replaced:
            return
        _modern_inputs(model)
        self._import_domains(model)
        _Pruner(model, self._bodies).prune(abandoned)

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
        for node, new_nodes in self._replaced.values():
            for domain in {n.domain for n in new_nodes if n.domain}:
                holders = [model]
                root = node.body.root
                if root.is_function:
                    holders.append(root.proto)
                for holder in holders:
                    if domain not in {o.domain for o in holder.opset_import}:
                        holder.opset_import.add(domain=domain, version=1)


def _all_names(body: Body) -> Iterator[str]:
    yield from body.initializers
    yield from body.inputs
    yield from body.sparse
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


def _modern_inputs(model: ModelProto) -> None:
    """Before IR version 4 every initializer had to be a graph input; from there on that means "may be overridden"."""
    if model.ir_version >= _IR_WITHOUT_INPUT_INITIALIZERS:
        return
    names = {t.name for t in model.graph.initializer}
    kept = [i for i in model.graph.input if i.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.ir_version = _IR_WITHOUT_INPUT_INITIALIZERS


class _Pruner:
    """Removes constants and the chains behind them once nothing reads them."""

    def __init__(self, model: ModelProto, bodies: list[Body]) -> None:
        self._uses: dict[Body, Counter[str]] = {body.root: Counter() for body in bodies}
        for body in bodies:
            uses = self._uses[body.root]
            for node in body.proto.node:
                uses.update(node.input)
            uses.update(o.name if isinstance(body.proto, GraphProto) else o for o in body.proto.output)
        for training in model.training_info:
            main = self._uses[bodies[0]]
            for graph in (training.initialization, training.algorithm):
                main.update(name for node in graph.node for name in node.input)
            for binding in (*training.initialization_binding, *training.update_binding):
                main.update((binding.key, binding.value))
        self._dead_tensors: dict[Body, set[str]] = {}
        self._dead_nodes: dict[Body, set[str]] = {}

    def prune(self, abandoned: list[Constant]) -> None:
        """Remove what the replaced nodes alone have read."""
        for constant in abandoned:
            for body, name in constant.names:
                self._drop(body, name)
        for body, names in self._dead_tensors.items():
            _delete(body.proto.initializer, names, lambda t: t.name)
            if isinstance(body.proto, GraphProto):
                _delete(body.proto.quantization_annotation, names, lambda a: a.tensor_name)
        for body, names in self._dead_nodes.items():
            _delete(body.proto.node, names, lambda n: n.output[0] if n.output else "")
        for body in {*self._dead_tensors, *self._dead_nodes}:
            names = self._dead_tensors.get(body, set()) | self._dead_nodes.get(body, set())
            _delete(body.proto.value_info, names, lambda v: v.name)

    def _drop(self, body: Body, name: str) -> None:
        if self._uses[body.root][name]:
            return
        if name in body.initializers:
            self._dead_tensors.setdefault(body, set()).add(name)
            return
        node = body.producers.get(name)
        dead = self._dead_nodes.setdefault(body, set())
        if node is None or node.output[0] in dead or any(self._uses[body.root][o] for o in node.output):
            return
        dead.add(node.output[0])
        for source in node.input:
            self._uses[body.root][source] -= 1
            home: Body | None = body
            while home is not None and source not in home.initializers and source not in home.producers:
                home = home.parent
            if home is not None:
                self._drop(home, source)


def _delete(items: MutableSequence[Any], names: set[str], name_of: Callable[[Any], str]) -> None:
    for index in range(len(items) - 1, -1, -1):
        if name_of(items[index]) in names:
            del items[index]
