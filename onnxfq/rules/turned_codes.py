"""Codes of rows [N, K], each packed by itself, turned into [K, N], packed one after the other, and back.

ONNX packs tensors of small integers without regard to rows: with N = 3 and 4 bits, the second row begins in the middle
of the second byte. Rows are taken in groups that begin and end with a byte, so that groups can be worked on at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxfq.arrays import Uint8Array
from onnxfq.packing import pack_rows
from onnxfq.system.compiled import compiled
from onnxfq.system.threads import spread

_GROUP = 64  # rows of [K, N]: so many of 2 bits each are whole bytes for any N
_TILE = 256  # columns of [K, N] that are turned together


def turned(parts: Sequence[Uint8Array], bits: int, k: int, flip: int) -> Uint8Array:
    """Codes [K, N], packed, from rows in parts.

    Args:
        parts: [rows, bytes] each, as `pack_rows` gives them.
        bits: 2, 4 or 8.
        k: codes of a row.
        flip: bits in which stored codes differ from the given ones.
    """
    n = sum(len(part) for part in parts)
    packed = np.zeros(-(-n * k * bits // 8), np.uint8)
    first = 0
    for part in parts:
        spread(_turn, -(-k // _GROUP), np.ascontiguousarray(part), first, n, k, bits, np.uint8(flip), packed)
        first += len(part)
    return packed


def rows_of(packed: Uint8Array, rows: range, n: int, bits: int, k: int, flip: int) -> Uint8Array:
    """Some rows [rows, bytes] of what `turned` gave, as it took them.

    Args:
        packed: all codes [K, N].
        rows: which; consecutive ones.
        n: of all.
        bits: 2, 4 or 8.
        k: codes of a row.
        flip: as `turned` took it.
    """
    codes = np.empty((len(rows), k), np.uint8)
    source = np.ascontiguousarray(packed).view()
    source.flags.writeable = False  # whatever it is: every other kind of array is compiled for again
    spread(_turn_back, -(-k // _GROUP), source, rows.start, n, bits, np.uint8(flip), codes)
    return pack_rows(codes, np.zeros((len(rows), 1), np.uint8), 8 * max(1, k), bits, -(-k * bits // 8))


@compiled()
def _turn(
    begin: int,
    end: int,
    part: Uint8Array,
    first: int,
    n: int,
    k: int,
    bits: int,
    flip: np.uint8,
    packed: Uint8Array,
) -> None:
    """Put rows `first` and following, [rows, bytes], into the groups from `begin` to `end` of [K, N]."""
    per_byte, mask = 8 // bits, (1 << bits) - 1
    for group in range(begin, end):
        for tile in range(0, part.shape[0], _TILE):
            for column in range(group * _GROUP, min(k, (group + 1) * _GROUP)):
                byte, shift = column // per_byte, column % per_byte * bits
                for row in range(tile, min(part.shape[0], tile + _TILE)):
                    code = ((part[row, byte] >> shift) & mask) ^ flip
                    at = column * n + first + row
                    packed[at // per_byte] |= code << (at % per_byte * bits)


@compiled()
def _turn_back(
    begin: int, end: int, packed: Uint8Array, first: int, n: int, bits: int, flip: np.uint8, codes: Uint8Array
) -> None:
    """Fill `codes` [rows, K] from the groups from `begin` to `end` of [K, N]."""
    per_byte, mask = 8 // bits, (1 << bits) - 1
    rows, k = codes.shape
    for group in range(begin, end):
        for tile in range(0, rows, _TILE):
            for column in range(group * _GROUP, min(k, (group + 1) * _GROUP)):
                for row in range(tile, min(rows, tile + _TILE)):
                    at = column * n + first + row
                    codes[row, column] = ((packed[at // per_byte] >> (at % per_byte * bits)) & mask) ^ flip
