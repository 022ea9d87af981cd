"""Weights solved in several schemes at once, each for the inputs that it meets in one and the same quantized model.

A trial goes along with an ordinary run. What that run solves is solved in further schemes too, and kept; afterwards
models can be put together in which some weights have another scheme, without running or solving anything again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from onnxfq.arrays import Float64Array
from onnxfq.executors.serialization import dump, load
from onnxfq.graph import Graph
from onnxfq.quantization.assign import Planned
from onnxfq.quantization.solved_weight import SolvedWeight, from_arrays, to_arrays
from onnxfq.rules import Bias

AS_PLANNED = 0  # number of the form that the run itself has


class MixTrial:
    """What is solved along with a run, and what the run found behind its targets.

    Args:
        graph: the run's model, nothing of which was changed yet.
        folder: takes the weights.
        forms: for each further form its targets by position, as they are planned in it.
    """

    def __init__(self, graph: Graph, folder: Path, forms: Sequence[Mapping[int, Planned]]) -> None:
        self._folder, self._forms = folder, forms
        self._solved: dict[tuple[int, int], Path] = {}  # by position of the target, and number of the form
        self._positions = {id(node.proto): position for position, node in enumerate(graph.nodes())}
        self._biases: dict[int, int] = {}  # of a target, the position of the node that adds its bias
        self._shifts: dict[int, Float64Array] = {}

    def forms(self, planned: Mapping[int, Planned]) -> dict[int, dict[int, Planned]]:
        """What these targets are in each further form, by its number."""
        found = {
            number: {index: form[index] for index in planned if index in form}
            for number, form in enumerate(self._forms, start=AS_PLANNED + 1)
        }
        return {number: form for number, form in found.items() if form}

    def keep(self, number: int, solved: Mapping[int, SolvedWeight | None]) -> None:
        """Keep solved weights of a form."""
        for index, weight in solved.items():
            if weight is not None:
                self._solved[index, number] = dump(self._folder, list(to_arrays(weight)))

    def keep_bias(self, index: int, bias: Bias | None, shift: Float64Array | None) -> None:
        """Remember where the bias behind a target is, and how it moves in the run."""
        if bias is not None and shift is not None:
            self._biases[index], self._shifts[index] = self._positions[id(bias.node.proto)], shift

    def solved(self, index: int, number: int) -> SolvedWeight | None:
        """A target's weight in a form; None where it is that of another target."""
        file = self._solved.get((index, number))
        return None if file is None else from_arrays(*load(file))

    def bias(self, index: int) -> tuple[int, Float64Array] | None:
        """Where the bias behind a target is, as the position of its node in the model, and how it moves in the run."""
        return (self._biases[index], self._shifts[index]) if index in self._biases else None

    @property
    def own(self) -> frozenset[int]:
        """Targets whose weight was solved, not shared with that of another."""
        return frozenset(index for index, number in self._solved if number == AS_PLANNED)
