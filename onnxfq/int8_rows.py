"""Activations as kernels take them that round them to int8 on the fly."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from onnxfq.arrays import Float32Array, Float64Array

TOP = 127  # steps up to the largest value, either way

Rows = TypeVar("Rows", Float32Array, Float64Array)


def round_to_int8(x: Rows, block: int) -> Rows:
    """Rows [rows, K] rounded: each block of columns in 127 steps up to its largest value."""
    columns = x.shape[1] + -x.shape[1] % block
    padded = np.pad(x, ((0, 0), (0, columns - x.shape[1]))).reshape(len(x), columns // block, block)
    step = np.abs(padded).max(axis=2, keepdims=True) / TOP
    rounded = np.rint(np.divide(padded, step, out=np.zeros_like(padded), where=step > 0)) * step
    return np.asarray(rounded.reshape(len(x), columns)[:, : x.shape[1]], x.dtype)
