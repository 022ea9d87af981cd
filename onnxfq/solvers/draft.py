"""A weight while its codes, scales and zero points are still being improved."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from onnxfq.arrays import Float32Array, Uint8Array
from onnxfq.quantized import QuantizedWeight
from onnxfq.scheme import ScaleType, Scheme


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """What a weight ought to be and what it is so far; the arrays of codes and grids are changed in place.

    Attributes:
        target: [N, K], what the weights ought to be.
        codes: [N, K].
        scale: [N, blocks].
        zero_point: [N, blocks].
        scheme: bits, blocks and symmetry.
        scale_type: the type in which scales will be stored.
    """

    target: Float32Array
    codes: Uint8Array
    scale: Float32Array
    zero_point: Uint8Array
    scheme: Scheme
    scale_type: ScaleType

    @property
    def block_size(self) -> int:
        """How many columns share a scale."""
        return self.scheme.columns_per_block(self.target.shape[1])

    @property
    def top(self) -> np.float32:
        """The largest code."""
        return np.float32(self.scheme.levels - 1)

    def copy(self) -> Draft:
        """Codes and grids of its own, for the same target."""
        return replace(self, codes=self.codes.copy(), scale=self.scale.copy(), zero_point=self.zero_point.copy())

    def rows(self, rows: slice) -> Draft:
        """Some rows, sharing memory with the whole."""
        part = (self.target[rows], self.codes[rows], self.scale[rows], self.zero_point[rows])
        return Draft(*part, self.scheme, self.scale_type)

    def steps(self) -> Float32Array:
        """Codes less zero points, [N, K]."""
        steps = self.codes.astype(np.float32)
        steps -= np.repeat(self.zero_point, self.block_size, axis=1)[:, : steps.shape[1]]
        return steps

    def dequantised(self) -> Float32Array:
        """The weights so far, [N, K]."""
        weights = self.steps()
        weights *= np.repeat(self.scale, self.block_size, axis=1)[:, : weights.shape[1]]
        return weights

    def finished(self, remarks: tuple[str, ...]) -> QuantizedWeight:
        """What a solver returns."""
        return QuantizedWeight(
            codes=self.codes,
            scale=self.scale,
            zero_point=self.zero_point,
            bits=self.scheme.bits,
            block_size=self.block_size,
            scale_type=self.scale_type,
            symmetric=self.scheme.symmetric,
            remarks=remarks,
        )
