"""Codes of 2, 4 or 8 bits as bytes, blocks as kernels see them, and a digest of what a weight decodes to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from onnxfq.arrays import Array, Float32Array, Uint8Array, Uint64Array
from onnxfq.quantized import QuantizedWeight
from onnxfq.system.compiled import compiled
from onnxfq.system.threads import spread

_CHUNK_WORDS = 8192  # 64 KiB are hashed as one unit of parallel work
_LANES = 4
CHUNK_WEIGHTS = 1 << 21  # 8 MiB of float32


def pack_rows(codes: Uint8Array, padding: Uint8Array, block_size: int, bits: int, width: int) -> Uint8Array:
    """Codes [N, K] as bytes [N, width], low bits first inside a byte.

    Args:
        codes: each below `2**bits`.
        padding: [N, blocks], what stands beyond K in each block.
        block_size: columns of a block of `padding`.
        bits: 2, 4 or 8.
        width: bytes of a row.
    """
    packed = np.empty((codes.shape[0], width), np.uint8)
    spread(_pack_rows, codes.shape[0], np.ascontiguousarray(codes), padding, block_size, bits, packed)
    return packed


def unpack_rows(packed: Uint8Array, bits: int, k: int) -> Uint8Array:
    """Codes [N, k] from bytes [N, width]: the inverse of `pack_rows`."""
    codes = np.empty((packed.shape[0], k), np.uint8)
    source = np.ascontiguousarray(packed).view()
    source.flags.writeable = False  # whatever it is: every other kind of array is compiled for again
    spread(_unpack_rows, codes.shape[0], source, bits, codes)
    return codes


def pack_zero_points(zero_point: Uint8Array, bits: int) -> Uint8Array:
    """Zero points [N, blocks] as bytes [N, ceil(blocks * bits / 8)]; what is left of the last byte is 0."""
    n, blocks = zero_point.shape
    width = -(-blocks * bits // 8)
    return pack_rows(zero_point, np.zeros((n, 1), np.uint8), 8 * width, bits, width)


def at_block_size(q: QuantizedWeight, block_size: int) -> QuantizedWeight:
    """The same weight with scales and zero points repeated for a kernel's blocks.

    Possible where `block_size` divides the weight's, or where one block holds a whole row in both or in the weight.

    Raises:
        ValueError: the kernel's blocks cannot express the weight's.
    """
    k = q.shape[1]
    if q.block_size == block_size:
        return q
    if q.scale.shape[1] > 1 and q.block_size % block_size:
        raise ValueError(
            f"A kernel block of {block_size} cannot express blocks of {q.block_size} weights (K={k}). "
            "It must divide them, or one block must hold the whole row."
        )
    k_blocks = -(-k // block_size)
    repeats = k_blocks if q.scale.shape[1] == 1 else q.block_size // block_size
    return replace(
        q,
        scale=np.ascontiguousarray(np.repeat(q.scale, repeats, axis=1)[:, :k_blocks]),
        zero_point=np.ascontiguousarray(np.repeat(q.zero_point, repeats, axis=1)[:, :k_blocks]),
        block_size=block_size,
    )


def row_chunks(n: int, k: int) -> Iterator[slice]:
    """Rows of a weight [N, K] in chunks that stay in the processor's cache: what follows each other reuses them."""
    step = max(16, CHUNK_WEIGHTS // max(1, k))
    return (slice(start, min(n, start + step)) for start in range(0, n, step))


def join_digests(digests: Iterable[str]) -> str:
    """One digest of the fingerprints of a weight's chunks, in order."""
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def fingerprints_of(q: QuantizedWeight, block_size: int) -> Iterator[str]:
    """Digests of a weight's row chunks, as a kernel with blocks of `block_size` sees them."""
    at = at_block_size(q, block_size)
    for rows in row_chunks(*at.shape):
        yield fingerprint(at.codes[rows], at.scale[rows], at.zero_point[rows])


def fingerprint(codes: Uint8Array, scale: Float32Array, zero_point: Array) -> str:
    """A digest (64 hexadecimal digits) that two weights share when and, up to accident, only when they are equal.

    Runs at about the speed of memory and does not depend on the number of threads. Not cryptographic.
    """
    digest = hashlib.sha256()
    for array in (codes, scale, zero_point):
        digest.update(repr((array.shape, array.dtype.str)).encode())
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        whole = raw.size - raw.size % 8
        words = raw[:whole].view(np.uint64)
        lanes = np.empty((-(-words.size // _CHUNK_WORDS), _LANES), np.uint64)
        spread(_hash_chunks, lanes.shape[0], words, lanes)
        digest.update(lanes.tobytes())
        digest.update(raw[whole:].tobytes())
    return digest.hexdigest()


@compiled()
def _pack_rows(
    begin: int, end: int, codes: Uint8Array, padding: Uint8Array, block_size: int, bits: int, packed: Uint8Array
) -> None:
    """Pack each row of `codes` [N, K] into `packed` [N, bytes]; beyond K stands the block's value of `padding`."""
    k = codes.shape[1]
    per_byte = 8 // bits
    whole = k // per_byte
    for row in range(begin, end):
        if bits == 8:
            for i in range(whole):
                packed[row, i] = codes[row, i]
        elif bits == 4:
            for i in range(whole):
                packed[row, i] = codes[row, 2 * i] | (codes[row, 2 * i + 1] << 4)
        else:
            for i in range(whole):
                low = codes[row, 4 * i] | (codes[row, 4 * i + 1] << 2)
                packed[row, i] = low | (codes[row, 4 * i + 2] << 4) | (codes[row, 4 * i + 3] << 6)
        for i in range(whole, packed.shape[1]):
            byte = 0
            for j in range(per_byte):
                column = i * per_byte + j
                code = codes[row, column] if column < k else padding[row, column // block_size]
                byte |= code << (j * bits)
            packed[row, i] = byte


@compiled()
def _unpack_rows(begin: int, end: int, packed: Uint8Array, bits: int, codes: Uint8Array) -> None:
    """Fill `codes` [N, K] from the rows of `packed` [N, bytes], leaving out what lies beyond K."""
    k = codes.shape[1]
    per_byte = 8 // bits
    whole = k // per_byte
    for row in range(begin, end):
        if bits == 8:
            for i in range(whole):
                codes[row, i] = packed[row, i]
        elif bits == 4:
            for i in range(whole):
                codes[row, 2 * i] = packed[row, i] & 15
                codes[row, 2 * i + 1] = packed[row, i] >> 4
        else:
            for i in range(whole):
                for j in range(4):
                    codes[row, 4 * i + j] = (packed[row, i] >> (2 * j)) & 3
        for column in range(whole * per_byte, k):
            codes[row, column] = (packed[row, whole] >> (column % per_byte * bits)) & ((1 << bits) - 1)


@compiled()
def _hash_chunks(begin: int, end: int, words: Uint64Array, lanes: Uint64Array) -> None:
    """Four interleaved multiply-and-rotate hashes of every chunk of `words`; each step can be undone."""
    factor = np.uint64(0x9E3779B97F4A7C15)
    for chunk in range(begin, end):
        start = chunk * _CHUNK_WORDS
        stop = min(words.size, start + _CHUNK_WORDS)
        h0 = h1 = h2 = h3 = factor
        whole = start + (stop - start) // _LANES * _LANES
        for i in range(start, whole, _LANES):
            h0 = _mix(h0, words[i])
            h1 = _mix(h1, words[i + 1])
            h2 = _mix(h2, words[i + 2])
            h3 = _mix(h3, words[i + 3])
        for i in range(whole, stop):
            h0 = _mix(h0, words[i])
        lanes[chunk, 0] = h0
        lanes[chunk, 1] = h1
        lanes[chunk, 2] = h2
        lanes[chunk, 3] = h3


@compiled()
def _mix(h: np.uint64, word: np.uint64) -> np.uint64:
    """Take one word into a hash."""
    h = (h ^ word) * np.uint64(0xD6E8FEB86659FD93)
    return (h << np.uint64(29)) | (h >> np.uint64(35))
