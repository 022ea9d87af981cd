"""A quantised weight in canonical space, and the affine grid it lies on."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt

from onnxfq.scheme import ScaleType

Float32Array = npt.NDArray[np.float32]
Uint8Array = npt.NDArray[np.uint8]

# The smallest positive scale that a storage type holds and that kernels do not flush to zero.
SMALLEST_SCALE: dict[ScaleType, float] = {"float32": 2.0**-126, "float16": 2.0**-24, "bfloat16": 2.0**-126}


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedWeight:
    """Integer codes with the grid they stand on: `weight[n, k] ≈ scale[n, b] · (codes[n, k] − zero_point[n, b])`.

    `b = k // block_size`. What a solver returns and what packing stores; nobody rounds it again.

    Attributes:
        codes: [N, K] uint8, one code a byte, each below `2**bits`.
        scale: [N, ceil(K / block_size)] float32, every value exactly representable in `scale_type`.
        zero_point: [N, ceil(K / block_size)] uint8, each below `2**bits`.
        bits: 2, 4 or 8.
        block_size: columns sharing a scale; K itself where the whole row shares one.
        scale_type: the type in which scales are stored.
        symmetric: every zero point is `2**(bits-1)`, so that it need not be stored.
    """

    codes: Uint8Array
    scale: Float32Array
    zero_point: Uint8Array
    bits: int
    block_size: int
    scale_type: ScaleType = "float32"
    symmetric: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K): outputs, inputs."""
        return self.codes.shape[0], self.codes.shape[1]

    def dequantise(self) -> Float32Array:
        """The weights the codes stand for, [N, K] float32."""
        k = self.shape[1]
        scale = np.repeat(self.scale, self.block_size, axis=1)[:, :k]
        zero_point = np.repeat(self.zero_point, self.block_size, axis=1)[:, :k]
        return scale * (self.codes.astype(np.float32) - zero_point.astype(np.float32))


def round_scale(scale: npt.NDArray[np.floating], scale_type: ScaleType) -> Float32Array:
    """Round scales to the type they will be stored in, as float32; magnitudes stay at least the smallest usable one.

    Rounds to nearest: solvers choose codes *after* this, on the grid that will be stored.
    """
    stored = np.asarray(scale, np.float32)
    if scale_type == "float16":
        stored = np.clip(stored, -65504.0, 65504.0).astype(np.float16).astype(np.float32)
    elif scale_type == "bfloat16":
        stored = stored.astype(ml_dtypes.bfloat16).astype(np.float32)
    smallest = np.float32(SMALLEST_SCALE[scale_type])
    return np.where(np.abs(stored) < smallest, np.copysign(smallest, stored), stored).astype(np.float32)
