"""Scales and zero points of blocks as operators for few bits read them: scales [N, blocks], zero points packed in rows.

Where there are no zero points, all are in the middle of the codes.
"""

from __future__ import annotations

import numpy as np

from onnxfq.arrays import Array, Uint8Array
from onnxfq.packing import pack_zero_points, unpack_rows
from onnxfq.quantized import STORED_TYPES, QuantizedWeight
from onnxfq.rules.kernel import Kernel
from onnxfq.rules.rule import Tensors, TensorType


def grid_layout(n: int, k: int, kernel: Kernel) -> dict[str, TensorType]:
    """Shape and type of the scales and, where the kernel has them, of the zero points of a weight [n, k]."""
    blocks = -(-k // kernel.block_size)
    scales: dict[str, TensorType] = {"scales": ((n, blocks), STORED_TYPES[kernel.activation_type])}
    if kernel.symmetric:
        return scales
    return {**scales, "zero_points": ((n, -(-blocks * kernel.bits // 8)), np.dtype(np.uint8))}


def pack_grid(q: QuantizedWeight) -> dict[str, Array]:
    """The scales of a weight, and its zero points where it has any of its own."""
    scales: dict[str, Array] = {"scales": q.scale.astype(STORED_TYPES[q.scale_type])}
    return scales if q.symmetric else {**scales, "zero_points": pack_zero_points(q.zero_point, q.bits)}


def with_grid(codes: Uint8Array, tensors: Tensors, kernel: Kernel) -> QuantizedWeight:
    """The weight of codes [N, K] and of the tensors that `pack_grid` gave, in the kernel's blocks."""
    scales, packed = tensors["scales"], tensors.get("zero_points")
    return on_grid(codes, scales, None if packed is None else unpack_rows(packed, kernel.bits, scales.shape[1]), kernel)


def on_grid(codes: Uint8Array, scales: Array, zero_point: Uint8Array | None, kernel: Kernel) -> QuantizedWeight:
    """The weight of codes [N, K], scales [N, blocks] and zero points [N, blocks], None for those of the middle."""
    return QuantizedWeight(
        codes=codes,
        scale=scales.astype(np.float32),
        zero_point=np.full(scales.shape, 1 << (kernel.bits - 1), np.uint8) if zero_point is None else zero_point,
        bits=kernel.bits,
        block_size=kernel.block_size,
        scale_type=kernel.activation_type,
        symmetric=zero_point is None,
    )
