"""Removing constants, and the nodes between them and their readers, once nothing reads them any more."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, MutableSequence
from typing import TypeVar

from onnx import GraphProto, ModelProto

from onnxfq.graph.bodies import Body, scopes
from onnxfq.graph.constants import Constant

_Item = TypeVar("_Item")


def prune(model: ModelProto, bodies: list[Body], abandoned: Iterable[Constant]) -> None:
    """Remove what the replaced nodes alone have read.

    Names are counted over a whole model or function at once: a name that is used anywhere in it stays.

    Args:
        model: the model, with the replaced nodes gone already.
        bodies: its scopes.
        abandoned: constants that some node reads no more.
    """
    pruner = _Pruner(model, bodies)
    for constant in abandoned:
        for body, name in constant.names:
            pruner.drop(body, name)
    pruner.delete()


class _Pruner:
    def __init__(self, model: ModelProto, bodies: list[Body]) -> None:
        self._uses: defaultdict[Body, Counter[str]] = defaultdict(Counter)
        for body in bodies:
            self._uses[body.root].update(_read_in(body))
        for training in model.training_info:
            main = self._uses[bodies[0]]
            for graph in (training.initialization, training.algorithm):
                for body in scopes(graph):
                    main.update(_read_in(body))
            for binding in (*training.initialization_binding, *training.update_binding):
                main.update((binding.key, binding.value))
        self._tensors: defaultdict[Body, set[str]] = defaultdict(set)
        self._nodes: defaultdict[Body, set[str]] = defaultdict(set)  # by their first outputs

    def drop(self, body: Body, name: str) -> None:
        """Mark what defines a name, and what is needed for that alone, if nothing uses the name."""
        uses = self._uses[body.root]
        if uses[name]:
            return
        if name in body.initializers:
            if name not in body.inputs:
                self._tensors[body].add(name)
            return
        node = body.producers.get(name)
        if node is None or node.output[0] in self._nodes[body] or any(uses[output] for output in node.output):
            return
        self._nodes[body].add(node.output[0])
        for source in node.input:
            uses[source] -= 1
            home = body.home_of(source)
            if home is not None:
                self.drop(home, source)

    def delete(self) -> None:
        """Remove what was marked."""
        for body in {**self._tensors, **self._nodes}:
            tensors, nodes = self._tensors[body], self._nodes[body]
            if isinstance(body.proto, GraphProto):
                _delete(body.proto.initializer, tensors, lambda t: t.name)
                _delete(body.proto.quantization_annotation, tensors, lambda a: a.tensor_name)
            _delete(body.proto.node, nodes, lambda n: n.output[0] if n.output else "")
            _delete(body.proto.value_info, tensors | nodes, lambda v: v.name)
            body.forget()


def _read_in(body: Body) -> list[str]:
    """What a scope reads and returns, as often as it does."""
    outputs = [o.name if isinstance(body.proto, GraphProto) else o for o in body.proto.output]
    return [*(name for node in body.proto.node for name in node.input), *outputs]


def _delete(items: MutableSequence[_Item], names: set[str], name_of: Callable[[_Item], str]) -> None:
    for index in range(len(items) - 1, -1, -1):
        if name_of(items[index]) in names:
            del items[index]
