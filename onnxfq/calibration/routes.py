"""Which way each sample takes through a model: samples that take the same branches are calibrated together."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxfq.calibration.pieces import Runtime, held
from onnxfq.errors import DataError, ModelError
from onnxfq.feeds import Feed, Feeds, always, text_count
from onnxfq.graph import Constant, Flow, Graph, Node, Step, extract_submodel, partition
from onnxfq.providers import facts
from onnxfq.rules import Target
from onnxfq.session import Session

_LOGGER = logging.getLogger(__name__)
MOST_ROUTES = 8  # each takes a run through the model

Decisions = Mapping[str, bool | None]  # by the name of the condition; None where it cannot be known


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """Samples that take the same branches.

    Attributes:
        samples: their positions among all samples.
        flow: the model with the branches opened that they take.
    """

    samples: tuple[int, ...]
    flow: Flow


def find_routes(graph: Graph, targets: Sequence[Target], feeds: Feeds, runtime: Runtime) -> list[Route]:
    """Group samples by the branches of If that they take, those with targets in them; the largest group comes first.

    Conditions that no sample feeds are computed. Branches whose names collide with others stay closed. Of more than
    `MOST_ROUTES` groups those are taken that reach branches which no other has reached; the rest is left out.
    """
    holders = _holders(targets)
    pending: list[tuple[tuple[int, ...], Decisions]] = [(tuple(range(len(feeds))), {})]
    routes: list[tuple[Route, Decisions]] = []
    while pending:
        samples, known = pending.pop()
        flow = _flow(graph, [feeds[i] for i in samples], known)
        step = next((s for s in flow.steps if id(s.node.proto) in holders and s.node.inputs[0] not in known), None)
        if step is None:
            routes.append((Route(samples, flow), known))
            continue
        values = _conditions(graph, flow, step, [feeds[i] for i in samples], runtime)
        for value in dict.fromkeys(values):
            group = tuple(i for i, own in zip(samples, values, strict=True) if own == value)
            pending.append((group, {**known, step.node.inputs[0]: value}))
    counts = [text_count(feed, graph.signature) for feed in feeds]
    return _chosen(sorted(routes, key=lambda route: (-sum(counts[i] for i in route[0].samples), route[0].samples)))


def _chosen(routes: Sequence[tuple[Route, Decisions]]) -> list[Route]:
    """The largest route, then those with the most branches that none before them takes."""
    left, chosen, reached = list(routes), list[Route](), set[tuple[str, bool | None]]()
    while left and len(chosen) < MOST_ROUTES:
        best = max(left, key=lambda route: len(route[1].items() - reached)) if chosen else left[0]
        left.remove(best)
        chosen.append(best[0])
        reached |= best[1].items()
    return chosen


def _flow(graph: Graph, feeds: Sequence[Feed], known: Decisions) -> Flow:
    def decide(name: str) -> bool | None:
        return known[name] if name in known else always(feeds, name)

    return Flow(graph, decide, fed=feeds[0])


def _holders(targets: Sequence[Target]) -> set[int]:
    """The Ifs, by identity, that targets stand in."""
    found = set[int]()
    for target in targets:
        node: Node | None = target.node
        while node is not None and node.body.holder is not None and node.body.parent is not None:
            node = Node(node.body.holder[0], node.body.parent)
            if node.op_type == "If" and not node.domain:
                found.add(id(node.proto))
    return found


def _conditions(graph: Graph, flow: Flow, step: Step, feeds: Sequence[Feed], runtime: Runtime) -> list[bool | None]:
    """The value of an If's condition for each sample; None where it is none."""
    name = step.node.inputs[0]
    if all(name in feed for feed in feeds):
        return [_truth(feed[name]) for feed in feeds]
    fixed = graph.constant(step.node, 0)
    if isinstance(fixed, Constant):
        return [_truth(fixed.load())] * len(feeds)
    steps = flow.ancestors([name])
    read = {n for s in steps for n in s.reads}
    given = [n for n in feeds[0] if n in read]
    parts = partition(graph, flow, steps, runtime.memory, widens=facts(runtime.provider).widens_half)
    if len(parts) > 1:  # more than fits into memory
        return [None] * len(feeds)
    try:
        looks = {n: held(n, feeds[0][n].dtype, [feed[n].shape for feed in feeds]) for n in given}
        part = extract_submodel(graph, flow, steps, looks, [name], frozenset(), None)
        session = Session(
            part.model, provider=runtime.provider, threads=runtime.threads, external_data_folder=part.folder
        )
        return [_truth(session.run({n: feed[n] for n in given})[name]) for feed in feeds]
    except (DataError, ModelError) as error:
        _LOGGER.debug("condition '%s' is not known: %s", name, error)
        return [None] * len(feeds)


def _truth(value: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bool | None:
    return bool(value.reshape(-1)[0]) if value.size == 1 else None
