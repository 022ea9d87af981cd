"""Stages: the targets that read one tensor, which are calibrated and solved together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from onnxfq.graph import Flow
from onnxfq.rules import Target


@dataclass(frozen=True, slots=True)
class Stage:
    """All targets that read one tensor in one way.

    Attributes:
        targets: positions among all targets, the one that stands first in the model first.
        source: the tensor; "" for a target that calibration does not reach.
        transposed: they read it as [K, tokens]; otherwise as [tokens, K], K of one of its axes or of several.
        k: inputs of each of them.
        part: where the tensor is a batch of matrices, which of them they read; None: all.
    """

    targets: tuple[int, ...]
    source: str = ""
    transposed: bool = False
    k: int = 0
    part: int | None = None


def find_stages(flow: Flow, targets: Sequence[Target]) -> list[Stage]:
    """Group targets into stages, in an order in which each stage's inputs depend on earlier stages only.

    Targets inside loops, local functions and undecided branches are out of reach: each is a stage by itself, at the
    end. So is one whose input depends on nothing.
    """
    steps = {id(step.node.proto): position for position, step in enumerate(flow.steps)}
    groups: dict[Hashable, list[int]] = {}
    order = sorted(range(len(targets)), key=lambda i: steps.get(id(targets[i].node.proto), len(steps)))
    for index in order:
        target = targets[index]
        reached = id(target.node.proto) in steps and target.source and target.source not in flow.static
        key = (target.source, target.source_transposed, target.k, target.part) if reached else index
        groups.setdefault(key, []).append(index)
    return [_stage(key, members) for key, members in groups.items()]


def _stage(key: Hashable, members: list[int]) -> Stage:
    return Stage(tuple(members), *key) if isinstance(key, tuple) else Stage(tuple(members))
