"""Nodes that compute gradients, behind those of a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto

from onnxfq.graph.model import make_node
from onnxfq.graph.tensors import tensor_proto

PREFIX = "/gradient/"  # of all names that are new


class NoGradientError(Exception):
    """There is no rule for a node, or none for what it does."""


@dataclass(slots=True, eq=False)
class GradientNodes:
    """What has been added to a model so far.

    Attributes:
        shapes: of the model's values that are float32; 1 only what is 1 in every run.
        constants: values of the model's small constants.
        opset: version of ONNX's operators.
        still: names whose sizes no run changes.
        nodes: new ones, in an order in which they can run.
        tensors: new constants.
        stem: what names of new values begin with.
    """

    shapes: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, npt.NDArray[np.generic]]
    opset: int = 0
    still: Collection[str] = ()
    nodes: list[NodeProto] = field(default_factory=list)
    tensors: dict[bytes, TensorProto] = field(default_factory=dict)
    stem: str = PREFIX
    _count: int = 0

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """A node of one output, whose name is returned."""
        return self.add_many(operator, 1, *inputs, **attributes)[0]

    def add_many(self, operator: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """A node of several outputs, whose names are returned."""
        outputs = [f"{self.stem}{self._count + index}" for index in range(count)]
        self._count += count
        self.nodes.append(make_node(operator, list(inputs), outputs, **attributes))
        return outputs

    def number(self, value: float) -> str:
        """A float32 scalar."""
        return self._constant(np.asarray(value, np.float32))

    def integers(self, *values: int) -> str:
        """An int64 vector."""
        return self._constant(np.asarray(values, np.int64))

    def _constant(self, array: npt.NDArray[np.generic]) -> str:
        key = repr((array.dtype.str, array.shape)).encode() + array.tobytes()
        if key not in self.tensors:
            self.tensors[key] = tensor_proto(f"{PREFIX}constant/{len(self.tensors)}", array)
        return str(self.tensors[key].name)

    def shape(self, name: str) -> tuple[int, ...]:
        """The sizes of a value of the model.

        Raises:
            NoGradientError: they are not known.
        """
        try:
            return self.shapes[name]
        except KeyError:
            raise NoGradientError from None

    def rank(self, name: str) -> int:
        """How many dimensions a value of the model has."""
        return len(self.shape(name))

    def axis(self, given: object, name: str) -> int:
        """An axis of a value, counted from the front."""
        if not isinstance(given, int):
            raise NoGradientError
        return given % self.rank(name)

    def axes(self, node: NodeProto, attributes: Mapping[str, object]) -> list[int]:
        """The axes of a reduction, from its second input or its attribute, counted from the front."""
        given: object = attributes.get("axes")
        if len(node.input) > 1 and node.input[1]:
            found = self.constants.get(node.input[1])
            if found is None:
                raise NoGradientError
            given = found.reshape(-1).tolist()
        rank = self.rank(node.input[0])
        if isinstance(given, Sequence) and given:
            return sorted(int(axis) % rank for axis in given)
        return [] if attributes.get("noop_with_empty_axes") else list(range(rank))

    def like(self, gradient: str, name: str) -> str:
        """A gradient in the shape of a value, which has as many elements."""
        return self.add("Reshape", gradient, self.add("Shape", name))

    def swap(self, name: str, rank: int) -> str:
        """A value with its last two axes exchanged."""
        order = [*range(rank - 2), rank - 1, rank - 2]
        return self.add("Transpose", name, perm=order)

    def summed_to(self, gradient: str, name: str, over: Sequence[int]) -> str:
        """A gradient of sizes `over`, summed up along the axes along which a value was repeated to reach them."""
        own = self.shape(name)
        lacking = len(over) - len(own)
        axes = [*range(lacking), *(lacking + i for i, size in enumerate(own) if size == 1 and over[lacking + i] != 1)]
        if not axes:
            return gradient
        summed = self.add("ReduceSum", gradient, self.integers(*axes), keepdims=1)
        return self.like(summed, name) if lacking else summed
