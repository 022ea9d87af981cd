"""What a model takes and gives, without the model: names, types, shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Dimension = int | str | None

IMAGE_CHANNELS, IMAGE_SIDE = 3, 224  # of images of which nothing is known

_NUMPY_NAMES = {
    "float": "float32",
    "double": "float64",
    "float8e4m3fn": "float8_e4m3fn",
    "float8e4m3fnuz": "float8_e4m3fnuz",
    "float8e5m2": "float8_e5m2",
    "float8e5m2fnuz": "float8_e5m2fnuz",
}
_CONTAINERS = {"seq": "sequence", "optional": "optional", "map": "map", "sparse_tensor": "sparse"}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One graph input or output.

    Attributes:
        name: as in the model.
        dtype: numpy's name of the element type ("int64", "float32", "float16", "bool", "bfloat16", …), or "string",
            "sequence", "optional" for what no array holds.
        shape: a number, a symbolic name, or None where nothing is known; None as a whole when even the rank is unknown.
        vocabulary: for integer inputs that index an embedding (directly or through Cast, Reshape and their like): how
            many rows that embedding has, so that ids must lie in [0, vocabulary). None where nothing limits them.
        fitting: of each axis, the size that the graph suggests where the shape leaves it open; None where it says
            nothing. Empty where it says nothing of any.
    """

    name: str
    dtype: str
    shape: tuple[Dimension, ...] | None
    vocabulary: int | None = None
    fitting: tuple[int | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Signature:
    """What callers feed and get, in the model's order.

    Attributes:
        inputs: all that a caller must feed.
        outputs: all that it gives.
        defaults: inputs that have a value of their own, in whose place a caller may feed another.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    defaults: tuple[TensorSpec, ...] = ()

    @property
    def feedable(self) -> dict[str, TensorSpec]:
        """All that a caller may feed, by name: what must be given, then what has a value of its own."""
        return {spec.name: spec for spec in (*self.inputs, *self.defaults)}


def runtime_spec(name: str, kind: str, shape: Sequence[Dimension]) -> TensorSpec:
    """What ONNX Runtime says of an input or output.

    Args:
        name: of it.
        kind: such as "tensor(float)" or "seq(tensor(int64))".
        shape: negative where nothing is known.
    """
    container, _, element = kind.partition("(")
    if container in _CONTAINERS:
        return TensorSpec(name, _CONTAINERS[container], None)
    element = element.rstrip(")")
    sizes = tuple(None if isinstance(size, int) and size < 0 else size for size in shape)
    return TensorSpec(name, _NUMPY_NAMES.get(element, element), sizes or None)
