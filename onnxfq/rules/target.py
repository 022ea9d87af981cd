"""What a rule finds: nodes to quantise, and nodes to leave alone with the reason."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np

from onnxfq.graph import Constant, Node
from onnxfq.quantized import Float32Array
from onnxfq.scheme import ScaleType

_TILE = 256


@dataclass(frozen=True, eq=False)
class Target:
    """A node whose weight will be quantised.

    Attributes:
        name: the node's.
        node: where it stands.
        weight: the constant it multiplies by.
        n: outputs.
        k: inputs.
        transposed: the constant is [K, N] and must be turned into canonical [N, K].
        alpha: a factor that belongs into the weight (Gemm).
        scale_type: the type of the node's activations, in which scales are stored.
    """

    name: str
    node: Node = field(repr=False)
    weight: Constant = field(repr=False)
    n: int
    k: int
    transposed: bool
    alpha: float
    scale_type: ScaleType

    @property
    def key(self) -> Hashable:
        """Equal for targets that share one quantised weight."""
        return self.weight.key, self.transposed, self.alpha

    @property
    def float_bytes(self) -> int:
        """Bytes of the weight as stored in the source."""
        return self.weight.leaf.nbytes

    def load(self) -> Float32Array:
        """Read the weight into canonical space: [N, K] float32, contiguous."""
        value = self.weight.load()
        matrix = _transpose(value) if self.transposed else np.ascontiguousarray(value, np.float32)
        return matrix if self.alpha == 1.0 else matrix * np.float32(self.alpha)


def _transpose(value: np.ndarray) -> Float32Array:  # type: ignore[type-arg]
    """[K, N] of any float type → [N, K] float32, tile by tile so that both sides stay in the cache."""
    k, n = value.shape
    out = np.empty((n, k), np.float32)
    for row in range(0, n, _TILE):
        for column in range(0, k, _TILE):
            out[row : row + _TILE, column : column + _TILE] = value[column : column + _TILE, row : row + _TILE].T
    return out


@dataclass(frozen=True, slots=True)
class Skip:
    """A node that is left as it is.

    Attributes:
        name: the node's.
        op_type: its operator.
        reason: why, for people.
        quantized: it is quantised already.
        nbytes: bytes of its constant weight, 0 where it has none.
    """

    name: str
    op_type: str
    reason: str
    quantized: bool = False
    nbytes: int = 0
