"""Who reads which value of a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from onnxfq.graph.bodies import Body, Node

Reader: TypeAlias = tuple[Node | None, int]  # and the position among its inputs; None is whoever called the scope
Readers: TypeAlias = Mapping[tuple[Body | None, str], Sequence[Reader]]  # by defining scope and name


def find_readers(bodies: Sequence[Body]) -> Readers:
    """The readers of all values of all scopes."""
    found: defaultdict[tuple[Body | None, str], list[Reader]] = defaultdict(list)
    for body in bodies:
        for index, output in enumerate(body.proto.output):
            name = output if isinstance(output, str) else output.name
            found[body.home_of(name), name].append((None, index))
        for proto in body.proto.node:
            for index, name in enumerate(proto.input):
                found[body.home_of(name), name].append((Node(proto, body), index))
    return found
