"""Sums that stay where ONNX Runtime runs: on the GPU where there is one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxfq.arrays import Array
from onnxfq.session import Session, to_array, to_value


class Sums:
    """Runs a model again and again, some of whose outputs are its next inputs.

    Args:
        session: a model with, for each kept NAME, an input NAME and an output NAME_next of the same shape.
        start: the first values.
    """

    def __init__(self, session: Session, start: Mapping[str, Array]) -> None:
        self._session = session
        self._binding = session.binding()
        self._kept = {name: to_value(np.array(array), session.provider) for name, array in start.items()}
        self._next = {name: to_value(np.empty_like(array), session.provider) for name, array in start.items()}
        kept = [f"{name}_next" for name in start]
        self._others = [name for name in session.array_outputs() if name not in kept]

    def add(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; returns the outputs that are not kept, in host memory.

        Raises:
            ModelError: the model does not run.
        """
        for name, array in feed.items():
            self._binding.bind_ortvalue_input(name, to_value(np.ascontiguousarray(array)))
        for name, value in self._kept.items():
            self._binding.bind_ortvalue_input(name, value)
            self._binding.bind_ortvalue_output(f"{name}_next", self._next[name])
        for name in self._others:
            self._binding.bind_output(name, "cpu")
        outputs = self._session.run_bound(self._binding)[len(self._kept) :]
        self._kept, self._next = self._next, self._kept
        return {name: to_array(value) for name, value in zip(self._others, outputs, strict=True)}

    def read(self) -> dict[str, Array]:
        """The kept values, in host memory."""
        return {name: to_array(value) for name, value in self._kept.items()}

    def take(self) -> dict[str, Array]:
        """The kept values, in host memory; they begin again at zero."""
        found = self.read()
        self._kept = {name: to_value(np.zeros_like(array), self._session.provider) for name, array in found.items()}
        return found
