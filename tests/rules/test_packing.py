from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxfq.arrays import Array
from onnxfq.packing import at_block_size, fingerprint
from onnxfq.quantized import QuantizedWeight
from onnxfq.rules.matmul_nbits import pack, unpack
from onnxfq.scheme import BITS, BLOCK_SIZES
from support.weights import random_codes


def golden(bits: int, codes: list[int], zero_points: list[int]) -> dict[str, Array]:
    """One row of `codes` in blocks of 16, the last of them short."""
    q = QuantizedWeight(
        codes=np.array([codes], np.uint8),
        scale=np.linspace(0.5, 1, len(zero_points), dtype=np.float32)[None],
        zero_point=np.array([zero_points], np.uint8),
        bits=bits,
        block_size=16,
        scale_type="float16",
    )
    return pack(q, 16)


def test_golden_bytes_4_bits() -> None:
    packed = golden(4, [*range(16), *range(15, -1, -1), 1, 2, 3], [7, 9, 10])
    assert packed["B"].shape == (1, 3, 8)
    assert packed["B"][0, 0].tobytes().hex() == "1032547698badcfe"
    assert packed["B"][0, 1].tobytes().hex() == "efcdab8967452301"
    assert packed["B"][0, 2].tobytes().hex() == "21a3aaaaaaaaaaaa"  # beyond K stands the zero point 10
    assert packed["scales"].tobytes().hex() == "0038003a003c"
    assert packed["zero_points"].tobytes().hex() == "970a"  # three nibbles, padded to whole bytes


def test_golden_bytes_2_bits() -> None:
    packed = golden(2, [0, 1, 2, 3] * 4 + [3, 2, 1], [1, 2])
    assert packed["B"].tobytes().hex() == "e4e4e4e4" + "9baaaaaa"
    assert packed["zero_points"].tobytes().hex() == "09"


def test_golden_bytes_8_bits() -> None:
    packed = golden(8, [*range(200, 216), 5], [128, 77])
    assert packed["B"].tobytes().hex() == "c8c9cacbcccdcecfd0d1d2d3d4d5d6d7" + "05" + "4d" * 15
    assert packed["zero_points"].tobytes().hex() == "804d"


@settings(max_examples=50)
@given(
    k=st.integers(1, 300), bits=st.sampled_from(BITS), block_size=st.sampled_from(BLOCK_SIZES), symmetric=st.booleans()
)
def test_padded_weights_are_0(k: int, bits: int, block_size: int, symmetric: bool) -> None:
    packed = pack(random_codes(3, k, bits, block_size, symmetric=symmetric), block_size)
    whole = unpack(packed, bits, block_size, packed["scales"].shape[1] * block_size).dequantize()
    assert not whole[:, k:].any()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("k", [7, 64, 100])
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_one_scale_a_row_in_any_kernel_block(k: int, block_size: int, symmetric: bool) -> None:
    q = random_codes(5, k, 4, k, symmetric=symmetric)
    back = unpack(pack(q, block_size), 4, block_size, k)
    assert back.scale.shape == (5, -(-k // block_size))
    np.testing.assert_array_equal(back.dequantize(), q.dequantize())


def test_smaller_kernel_blocks_repeat_scales() -> None:
    q = random_codes(3, 300, 4, 128)
    at = at_block_size(q, 32)
    assert at.scale.shape == at.zero_point.shape == (3, 10)
    np.testing.assert_array_equal(at.dequantize(), q.dequantize())
    assert at_block_size(q, 128) is q


def test_blocks_that_kernel_blocks_cannot_express() -> None:
    with pytest.raises(ValueError, match="A kernel block of 64 cannot express blocks of 32 weights"):
        pack(random_codes(3, 300, 4, 32), 64)


def test_fingerprint_sees_every_element() -> None:
    q = random_codes(3, 70, 4, 32)
    seen = {fingerprint(q.codes, q.scale, q.zero_point)}
    for array in (q.codes, q.scale, q.zero_point):
        for index in range(array.size):
            kept = array.flat[index]
            array.flat[index] = kept + 1
            seen.add(fingerprint(q.codes, q.scale, q.zero_point))
            array.flat[index] = kept
    assert len(seen) == 1 + q.codes.size + q.scale.size + q.zero_point.size
    assert fingerprint(q.codes, q.scale, q.zero_point) in seen


def test_fingerprint_sees_order_and_shape() -> None:
    zeros = np.zeros((1, 1), np.uint8)
    codes = np.arange(200, dtype=np.uint8).reshape(2, 100)
    scale = np.ones((2, 4), np.float32)
    others = [codes[::-1], codes.reshape(4, 50), np.roll(codes, 8, axis=1), np.roll(codes, 32, axis=1)]
    seen = {fingerprint(other, scale, zeros) for other in [codes, *others]}
    assert len(seen) == 5


def test_fingerprint_is_the_same_everywhere() -> None:
    """In another process with another number of threads, over more than one unit of parallel work."""
    program = (
        "import numpy as np; from onnxfq.packing import fingerprint;"
        "c = (np.arange(300_007, dtype=np.uint32) * 7919 >> 5).astype(np.uint8)[None];"
        "print(fingerprint(c, np.ones((1, 3), np.float32), c[:, :3]))"
    )
    for threads in ("1", "2"):
        command = [sys.executable, "-c", program]
        environment = {**os.environ, "NUMBA_NUM_THREADS": threads}
        output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        assert output.strip() == GOLDEN_FINGERPRINT


GOLDEN_FINGERPRINT = "7240e50177dc98bcf4010ac00150d267197ab5e256a4600335fa53336fc8de74"
