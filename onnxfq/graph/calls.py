"""Local functions that call each other: whether that ends, and how large a model becomes when they are written out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from onnx import FunctionProto, ModelProto, NodeProto

from onnxfq.errors import ModelError
from onnxfq.graph.bodies import Body

MOST_NODES = 1_000_000  # ONNX Runtime writes all functions out when it loads a model
_DEEPEST = 500  # calls within calls

_Key = tuple[str, str, str]


def check_calls(model: ModelProto, bodies: list[Body], path: Path) -> None:
    """Refuse functions that call themselves, and those that call each other so often that no runtime can load them.

    Args:
        model: the model.
        bodies: its scopes.
        path: for messages.

    Raises:
        ModelError: there are such functions.
    """
    if not model.functions:
        return
    known = {_key(function) for function in model.functions}
    own: Counter[Body] = Counter()
    calls: defaultdict[Body, Counter[_Key]] = defaultdict(Counter)
    for body in bodies:
        own[body.root] += len(body.proto.node)
        calls[body.root].update(key for node in body.proto.node if (key := _key(node)) in known)
    homes = {_key(body.proto): body for body in bodies if isinstance(body.proto, FunctionProto)}
    size, depth = dict[_Key, int](), dict[_Key, int]()
    for key in _order({key: calls[home] for key, home in homes.items()}, path):
        inner = calls[homes[key]]
        size[key] = min(MOST_NODES + 1, own[homes[key]] + sum(n * size[other] for other, n in inner.items()))
        depth[key] = 1 + max((depth[other] for other in inner), default=0)
    called = calls[bodies[0]]
    total = own[bodies[0]] + sum(n * size[other] for other, n in called.items())
    if total > MOST_NODES or any(depth[other] > _DEEPEST for other in called):
        raise ModelError(
            f"'{path}' calls functions within functions so often that no runtime can load it: more than {MOST_NODES} "
            f"nodes, or {_DEEPEST} calls deep."
        )


def _order(calls: Mapping[_Key, Iterable[_Key]], path: Path) -> list[_Key]:
    """Functions, each behind those that it calls."""
    try:
        return list(TopologicalSorter(calls).static_order())
    except CycleError as error:
        names = " → ".join(f"{domain}:{name}" for domain, name, _ in error.args[1][:4])
        raise ModelError(f"'{path}' has functions that call themselves ({names}), which ONNX forbids.") from error


def _key(item: FunctionProto | NodeProto) -> _Key:
    name = item.name if isinstance(item, FunctionProto) else item.op_type
    return "" if item.domain == "ai.onnx" else str(item.domain), str(name), str(getattr(item, "overload", ""))
