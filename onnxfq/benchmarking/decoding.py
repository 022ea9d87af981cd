"""Runs whose values stay where the model runs: one run again and again, or a text that grows by a token a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from onnxfq.arrays import Array
from onnxfq.feeds import CausalLM, Feed, Ids, element_type
from onnxfq.session import Session, to_array, to_value
from onnxfq.signature import TensorSpec

if TYPE_CHECKING:
    from onnxfq.session import OrtValue


class Repeated:
    """One run, to be repeated: its inputs are bound once, its outputs stay where the model runs.

    Args:
        session: the model.
        feed: an array for each input.
    """

    def __init__(self, session: Session, feed: Feed) -> None:
        self._session, self._feed = session, feed
        self._inputs = {name: to_value(np.ascontiguousarray(a), session.provider) for name, a in feed.items()}
        self._places = dict.fromkeys(session.array_outputs(), session.provider)

    def run(self) -> dict[str, OrtValue]:
        """Run once; returns the outputs where they are.

        Raises:
            DataError: the feed does not fit the model.
            ModelError: the model does not run.
        """
        if not self._places:  # no output is an array that could be bound
            self._session.run(self._feed)
            return {}
        return _run(self._session, self._inputs, self._places)


class Decoding:
    """A text continued token by token, what the model keeps of earlier tokens going from each run to the next.

    That cache is ONNX Runtime's own memory, handed to the next run as it is: it is not copied and never leaves the
    device. The logits of every token come to host memory, where the next token is chosen.

    Args:
        writer: a language model with a cache.
        prompt: tokens to begin with [batch, tokens], run at once.
        new: tokens to continue with [batch, tokens], given in advance so that all models do the same.

    Raises:
        DataError: the tokens do not fit the model.
        ModelError: the model does not run.
    """

    def __init__(self, writer: CausalLM, prompt: Ids, new: Ids) -> None:
        self._writer = writer
        outputs = Repeated(writer.session, writer.prompt(prompt)).run()
        self._start = {past: outputs[present] for past, present in writer.cache.items()}
        before = prompt.shape[1]
        self._inputs = [self._inputs_of(new[:, step : step + 1], before, step) for step in range(new.shape[1])]
        self._places = {writer.logits: "cpu", **dict.fromkeys(writer.cache.values(), writer.session.provider)}
        self.restart()

    def restart(self) -> None:
        """Go back to the end of the prompt."""
        self._cache, self.done = self._start, 0

    @property
    def left(self) -> int:
        """How many of the given tokens are still to come."""
        return len(self._inputs) - self.done

    def step(self) -> Array:
        """Run the next token; returns its logits [batch, 1, vocabulary].

        Raises:
            ModelError: the model does not run.
        """
        outputs = _run(self._writer.session, {**self._inputs[self.done], **self._cache}, self._places)
        self._cache = {past: outputs[present] for past, present in self._writer.cache.items()}
        self.done += 1
        return to_array(outputs[self._writer.logits])

    def _inputs_of(self, new: Ids, before: int, step: int) -> dict[str, OrtValue]:
        """All inputs of a step but the cache, of which only the shape is needed to make them."""
        specs = [spec for spec in self._writer.signature.inputs if spec.name in self._start]
        caches = {spec.name: self._stand_in(spec, before, step) for spec in specs}
        feed = self._writer.prompt(new, caches)
        return {name: to_value(np.ascontiguousarray(array)) for name, array in feed.items() if name not in caches}

    def _stand_in(self, spec: TensorSpec, before: int, step: int) -> Array:
        """An array of the shape that a cache has before a step, which takes no memory."""
        shape = list(self._start[spec.name].shape())
        if shape[-2] == before:  # caches of an encoder's keys and values do not grow
            shape[-2] += step
        return np.broadcast_to(np.zeros((), element_type(spec)), shape)


def _run(session: Session, inputs: Mapping[str, OrtValue], places: Mapping[str, str]) -> dict[str, OrtValue]:
    """Run once on ONNX Runtime's own tensors; `places` has the device on which to leave each output wanted."""
    binding = session.binding()
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, value)
    for name, device in places.items():
        binding.bind_output(name, device)
    return dict(zip(places, session.run_bound(binding), strict=True))
