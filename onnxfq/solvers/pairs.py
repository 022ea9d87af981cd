"""Codes of int8 whose products with rounded activations are the same on every processor.

Without instructions for products of int8 (VNNI), x86 processors multiply two neighbouring weights of a row by unsigned
activations, up to 255, and add both products up in 16 bits: what is larger is cut off, silently. ONNX Runtime makes
activations unsigned on all of them. Where two neighbours of one sign are together at most 128, nothing is cut off:
255 · 128 < 2¹⁵. Rows have a scale that is large enough for that, some 1.2 times what they would have.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Float32Array, Uint8Array
from onnxfq.quantized import QuantizedWeight, round_scale
from onnxfq.scheme import ScaleType

MOST = 128  # of two neighbours of one sign together
_MIDDLE = 128  # the code that stands for 0


def smallest_scale(weight: Float32Array, scale_type: ScaleType) -> Float32Array:
    """The scale from which on no two neighbours of a row [N, K] are too large, however they are rounded, [N]."""
    with np.errstate(over="ignore"):
        largest = _together(*_neighbours(weight)).max(axis=1, initial=0.0) / np.float32(MOST - 1)
    return round_scale(largest, scale_type, cover=True)


def cut_codes(codes: Uint8Array) -> Uint8Array:
    """The same codes, both of two neighbours that are too large made smaller by half of what is too much."""
    first, second = _neighbours(codes.astype(np.int16) - _MIDDLE)
    excess = np.maximum(_together(first, second) - MOST, 0)
    if not excess.any():
        return codes
    cut = np.empty((len(codes), 2 * first.shape[1]), np.int16)
    cut[:, 0::2] = first - np.sign(first) * (excess - excess // 2)
    cut[:, 1::2] = second - np.sign(second) * (excess // 2)
    return np.asarray(cut[:, : codes.shape[1]] + _MIDDLE, np.uint8)


def with_fitting_pairs(weight: Float32Array, q: QuantizedWeight, importance: Float32Array) -> QuantizedWeight:
    """A weight whose rows keep their scale with codes cut off, or get one that is large enough: what errs less.

    Args:
        weight: [N, K].
        q: it, with a scale for each row.
        importance: [K], how much a squared error in each column counts.
    """
    codes = cut_codes(q.codes)
    rows = np.flatnonzero((codes != q.codes).any(axis=1))
    if not rows.size:
        return q
    scale, part = q.scale.copy(), weight[rows]
    wide = np.copysign(np.maximum(np.abs(scale[rows]), smallest_scale(part, q.scale_type)[:, None]), scale[rows])
    steps = np.clip(np.rint(part / wide), -_MIDDLE, _MIDDLE - 1) + _MIDDLE
    others = cut_codes(steps.astype(np.uint8))
    better = _error(part, others, wide, importance) < _error(part, codes[rows], scale[rows], importance)
    better &= (np.abs(wide) > np.abs(scale[rows]))[:, 0]  # else the scale is large enough, and codes make up for others
    codes[rows[better]], scale[rows[better]] = others[better], wide[better]
    return replace(q, codes=codes, scale=scale)


def _error(weight: Float32Array, codes: Uint8Array, scale: Float32Array, importance: Float32Array) -> Float32Array:
    error = weight - (codes.astype(np.float32) - np.float32(_MIDDLE)) * scale
    return np.asarray(np.square(error) @ importance)


def _neighbours(values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The first and the second of each two columns; the last stands with a 0 where it is alone."""
    even = np.pad(values, ((0, 0), (0, values.shape[1] % 2)))
    return even[:, 0::2], even[:, 1::2]


def _together(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The magnitude of both where they are of one sign, else of the larger."""
    one_sign = np.sign(first) == np.sign(second)
    return np.asarray(np.where(one_sign, np.abs(first + second), np.maximum(np.abs(first), np.abs(second))))
