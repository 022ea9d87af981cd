"""One model and all that was decided about it before any work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnxfq.find import Planned
from onnxfq.graph import Graph
from onnxfq.options import Options
from onnxfq.rules import Skip
from onnxfq.session import Provider
from onnxfq.solvers import Solver

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Job:
    """What will be done with a model.

    Attributes:
        graph: the model.
        options: what was asked for.
        provider: where it runs.
        solver: what chooses the codes.
        planned: the nodes to quantise, each with its kernel.
        skips: the nodes left alone, with reasons.
    """

    graph: Graph
    options: Options
    provider: Provider
    solver: Solver
    planned: Sequence[Planned]
    skips: Sequence[Skip]
