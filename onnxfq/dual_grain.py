"""Weights of 4 bits that become int8 by integer arithmetic alone, so that products of int8 can run them.

    weight[n, k] ≈ row_scale[n] · (multiplier[n, b] · code[n, k] + offset[n, b])        b = k // block_size

Codes are 0 to 15; what is in parentheses lies within ±64. In a `QuantizedWeight` the scale of a block is
`row_scale · multiplier`, and its zero point `−offset / multiplier`, which is rarely an integer: offsets are as fine as
int8 and not as the block's grid, which makes up for scales that are not.

Source: two grains as in L. Zhang et al., "Dual Grained Quantization: Efficient Fine-Grained Quantization for LLM",
2023. Differs: any int8 offset instead of an integer zero point (tried on MiniLM at block 32, within ±127: relative
error of the weights .0055 instead of .0065; symmetric .0085).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxfq.arrays import Float32Array, Uint8Array
from onnxfq.quantized import QuantizedWeight

REACH = (
    64  # either way: two neighbours of one sign are together at most 128 (see `solvers.pairs`), at no measurable cost
)
BITS = 4
TOP = (1 << BITS) - 1
MOST = 8  # multipliers: with 9 the ends of a grid would be out of reach


@dataclass(frozen=True, slots=True, eq=False)
class DualGrid:
    """The grid under a weight.

    Attributes:
        row_scale: [N] float32.
        multiplier: [N, blocks] float32, integers from 1 to `MOST`.
        offset: [N, blocks] float32, integers; all codes stay within `REACH`.
    """

    row_scale: Float32Array
    multiplier: Float32Array
    offset: Float32Array

    @classmethod
    def of(cls, scale: Float32Array, zero_point: Float32Array, row_scale: Float32Array) -> DualGrid:
        """From scales and zero points."""
        multiplier = np.rint(scale / row_scale[:, None])
        return cls(row_scale, multiplier, -np.rint(zero_point * multiplier))

    @property
    def scale(self) -> Float32Array:
        """Of every block."""
        return self.row_scale[:, None] * self.multiplier

    @property
    def zero_point(self) -> Float32Array:
        """Of every block."""
        return np.float32(0) - self.offset / self.multiplier

    def shift(self, block_size: int, k: int) -> Float32Array:
        """What code 0 stands for, [N, K]."""
        return np.repeat(self.row_scale[:, None] * self.offset, block_size, axis=1)[:, :k]

    def quantized(self, codes: Uint8Array, block_size: int) -> QuantizedWeight:
        """The weight that codes stand for."""
        return QuantizedWeight(
            codes, self.scale, self.zero_point, BITS, block_size, row_scale=np.ascontiguousarray(self.row_scale)
        )
