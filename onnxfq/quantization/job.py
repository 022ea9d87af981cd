"""One model and all that was decided about it before any work."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from onnxfq.executors.executor import HERE, Workers
from onnxfq.graph import Body, Graph
from onnxfq.options import Options
from onnxfq.providers import ProviderName
from onnxfq.quantization.assign import Mix, Planned
from onnxfq.quantization.choose_format import AutoFormat
from onnxfq.quantization.expected_speed import Forecast
from onnxfq.quantization.mix_trial import MixTrial
from onnxfq.reports.contents import Content
from onnxfq.rules import Skip
from onnxfq.solvers import Solver


@dataclass(frozen=True, slots=True)
class Job:
    """What will be done with a model.

    Attributes:
        graph: the model.
        options: what was asked for.
        provider: where it runs.
        solver: what chooses the codes.
        planned: the weights to quantize, each with its scheme and kernel.
        scheme: in words.
        skips: the nodes left alone, with reasons.
        kept: bytes of the planned nodes' float weights that stay because other nodes read them too, by what they are.
        contents: what the model's files consist of.
        workers: who does what need not be done here.
        forecast: how fast it will be, as far as tables tell; None where nobody asks.
        auto: chose the formats, where that was wanted.
        mix: schemes that were chosen for single weights.
        trial: further schemes in which every weight is solved besides; None where there are none.
        limit: bytes that the output's files may have; None where nothing limits them.
    """

    graph: Graph
    options: Options
    provider: ProviderName
    solver: Solver
    planned: Sequence[Planned]
    scheme: str
    skips: Sequence[Skip]
    kept: Mapping[Hashable, int] = field(default_factory=dict)
    contents: Sequence[Content] = ()
    workers: Workers = HERE
    forecast: Forecast | None = None
    auto: AutoFormat | None = None
    mix: Mix = field(default_factory=dict)
    trial: MixTrial | None = None
    limit: int | None = None

    @property
    def kept_bytes(self) -> int:
        """Of the float weights that stay."""
        return sum(self.kept.values())

    @property
    def replaced(self) -> set[tuple[Body, str]]:
        """The float weights that do not stay, by scope and name."""
        weights = (p.target.weight for p in self.planned)
        return {weight.names[-1] for weight in weights if weight.part not in self.kept}

    @property
    def threads(self) -> int | None:
        """For sessions: at most as many as there are cores; None leaves the choice to ONNX Runtime."""
        return None if self.options.threads is None else min(self.options.threads, os.cpu_count() or 1)


def kept_weights(graph: Graph, planned: Sequence[Planned]) -> dict[Hashable, int]:
    """Bytes of float weights that other nodes read too, such as an embedding that is also the output head."""
    uses = Counter[tuple[Body, str]]()
    for node in graph.nodes():  # each output of a Split is a reader of its own
        for name in set(node.inputs):
            uses[node.body.root, name] += len(node.outputs) if node.op_type == "Split" else 1
    readers: defaultdict[tuple[Body, str], set[tuple[Body, str]]] = defaultdict(set)
    for p in planned:
        reader = p.target.node.body, p.target.node.outputs[0]  # branches of an If may use the same names
        for body, name in p.target.weight.names:
            readers[body.root, name].add(reader)
            reader = body, name
    return {
        p.target.weight.part: p.target.float_bytes
        for p in planned
        if any(uses[body.root, name] > len(readers[body.root, name]) for body, name in p.target.weight.names)
    }
