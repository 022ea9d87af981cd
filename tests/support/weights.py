"""Weights for tests of solvers and packing, and what to measure on them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxfq.arrays import Float32Array
from onnxfq.quantized import QuantizedWeight, round_scale
from onnxfq.scheme import BITS, BLOCK_SIZES, Granularity, ScaleType, Scheme

SCALE_TYPES: tuple[ScaleType, ...] = ("float32", "float16", "bfloat16")
GRANULARITIES: tuple[int | Granularity, ...] = (16, 32, 128, "channel", "tensor")
LARGEST = float(np.finfo(np.float32).max)


def schemes() -> st.SearchStrategy[Scheme]:
    """Any scheme."""
    return st.builds(
        Scheme,
        bits=st.sampled_from(BITS),
        block_size=st.sampled_from((*BLOCK_SIZES, "channel", "tensor")),
        symmetric=st.booleans(),
    )


def matrices(largest: float) -> st.SearchStrategy[Float32Array]:
    """Small weights [N, K] of any finite values up to a magnitude, zeros and subnormal numbers among them."""
    values = st.floats(-largest, largest, width=32)
    return hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=70), elements=values)


def awkward() -> Float32Array:
    """Rows [13, 150] of every kind that has broken a quantizer somewhere."""
    rng = np.random.default_rng(7)
    normal = rng.standard_normal((13, 150))
    normal[1] = rng.standard_t(2, 150)
    normal[2] = np.abs(normal[2])
    normal[3] = -np.abs(normal[3]) - 5
    normal[4] = 0
    normal[5] = 3.25
    normal[6] = -1e-3
    normal[7] *= 1e-5
    normal[8] *= 1e-41  # subnormal in float32
    normal[9, ::31] = 100
    normal[10, 5] = -1000
    normal[11, 40:] = 0
    normal[12] *= 300
    return normal.astype(np.float32)


def assert_stands_on_its_grid(q: QuantizedWeight, weight: Float32Array, scheme: Scheme, scale_type: ScaleType) -> None:
    """Assert whatever is true of every quantized weight, however its codes were chosen."""
    assert q.codes.shape == weight.shape
    assert q.block_size == scheme.columns_per_block(weight.shape[1])
    assert q.scale.shape == q.zero_point.shape == (weight.shape[0], -(-weight.shape[1] // q.block_size))
    assert (q.bits, q.scale_type, q.symmetric) == (scheme.bits, scale_type, scheme.symmetric)
    assert q.codes.max() < scheme.levels
    assert q.zero_point.max() < scheme.levels
    assert np.isfinite(q.scale).all()
    assert q.scale.all()
    np.testing.assert_array_equal(round_scale(q.scale, scale_type), q.scale)
    assert np.isfinite(q.dequantize()).all()
    assert scheme.symmetric or (q.scale > 0).all()
    if scheme.symmetric:
        assert (q.zero_point == scheme.default_zero_point).all()
    if scheme.block_size == "tensor":
        assert np.unique(q.scale).size == np.unique(q.zero_point).size == 1


def block_errors(weight: Float32Array, q: QuantizedWeight, scheme: Scheme) -> npt.NDArray[np.float64]:
    """Squared error of whatever shares a scale: blocks, rows, or the whole weight."""
    squares = (weight.astype(np.float64) - q.dequantize().astype(np.float64)) ** 2
    if scheme.block_size == "tensor":
        return np.array([squares.sum()])
    sums: npt.NDArray[np.float64] = np.add.reduceat(squares, np.arange(0, weight.shape[1], q.block_size), axis=1)
    return sums


def steps(weight: Float32Array, q: QuantizedWeight) -> npt.NDArray[np.float64]:
    """Error of every weight in units of its scale, [N, K]."""
    scale = np.repeat(np.abs(q.scale), q.block_size, axis=1)[:, : weight.shape[1]]
    error = np.abs(weight.astype(np.float64) - q.dequantize().astype(np.float64))
    quotient: npt.NDArray[np.float64] = error / scale
    return quotient


def random_codes(
    n: int,
    k: int,
    bits: int,
    block_size: int,
    *,
    symmetric: bool = False,
    scale_type: ScaleType = "float32",
    seed: int = 0,
) -> QuantizedWeight:
    """Any codes, scales and zero points."""
    rng = np.random.default_rng(seed)
    grid = (n, -(-k // block_size))
    zero_point = np.full(grid, 1 << (bits - 1)) if symmetric else rng.integers(0, 1 << bits, grid)
    return QuantizedWeight(
        codes=rng.integers(0, 1 << bits, (n, k), np.uint8),
        scale=(2.0 ** rng.integers(-8, 3, grid) * rng.choice([1, -1, 1.5], grid)).astype(np.float32),
        zero_point=zero_point.astype(np.uint8),
        bits=bits,
        block_size=block_size,
        scale_type=scale_type,
        symmetric=symmetric,
    )
