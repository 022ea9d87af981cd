"""GPTQ: columns are coded one after another, and those still to come make up for the error of each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Float32Array, Uint8Array
from onnxfq.solvers.curvature import Curvature
from onnxfq.solvers.draft import Draft
from onnxfq.system.compiled import compiled


def code_with_feedback(draft: Draft, curvature: Curvature, column_batch: int) -> None:
    """Give every weight a code on the grid that is there, in the order and with the factor of `curvature`.

    Errors reach the columns beyond `column_batch` in one matrix product. Scales belong to columns, not to the order in
    which these are coded, so that kernels need no list of columns.

    Source: E. Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
    2022; the order is its authors' later act-order with static groups.
    """
    order, factor = curvature.order, curvature.factor
    wanted = np.ascontiguousarray(draft.target[:, order])
    for first in range(0, order.size, column_batch):
        last = min(order.size, first + column_batch)
        part = np.ascontiguousarray(wanted[:, first:last])
        within = np.ascontiguousarray(factor[first:last, first:last])
        grid = (draft.scale, draft.zero_point, draft.top, draft.block_size)
        _code_batch(part, within, order[first:last], *grid, draft.codes)
        if last < order.size:
            wanted[:, last:] -= part @ factor[first:last, last:]


@compiled()
def _code_batch(
    wanted: Float32Array,
    factor: Float32Array,
    columns: npt.NDArray[np.intp],
    scale: Float32Array,
    zero_point: Uint8Array,
    top: np.float32,
    block_size: int,
    codes: Uint8Array,
) -> None:
    """Code one batch of columns; `wanted` ends up as the errors, each in units of its column's own factor."""
    width = columns.size
    for row in range(wanted.shape[0]):
        w = wanted[row]
        for j in range(width):
            block = columns[j] // block_size
            step = scale[row, block]
            zero = np.float32(zero_point[row, block])
            code = np.rint(w[j] / step) + zero
            code = code if code > np.float32(0) else np.float32(0)
            code = code if code < top else top
            codes[row, columns[j]] = np.uint8(np.int32(code))
            line = factor[j]
            error = (w[j] - step * (code - zero)) / line[j]
            for i in range(j + 1, width):
                w[i] -= error * line[i]
            w[j] = error
