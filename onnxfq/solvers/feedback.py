"""GPTQ: columns are coded one after another, and those still to come make up for the error of each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Float32Array
from onnxfq.solvers.curvature import Curvature
from onnxfq.solvers.lanes import FUSED, Lanes, add_product
from onnxfq.system.compiled import compiled

_PIECE = 16  # columns that reach each other one by one; those before reach them in a small product


def code_with_feedback(lanes: Lanes, curvature: Curvature, column_batch: int) -> None:
    """Give every weight a code on the grid that is there, in the order and with the factor of `curvature`.

    Errors reach the columns beyond `column_batch` in one matrix product. Scales belong to columns, not to the order in
    which these are coded, so that kernels need no list of columns.

    Source: E. Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
    2022; the order is its authors' later act-order with static groups.
    """
    order, factor, draft = curvature.order, curvature.factor, lanes.draft
    wanted = lanes.target[order]
    if lanes.shift.any():
        wanted -= lanes.shift[order // draft.block_size]
    for first in range(0, order.size, column_batch):
        last = min(order.size, first + column_batch)
        part, within = wanted[first:last], np.ascontiguousarray(factor[first:last, first:last].T)
        if first:
            part += factor[:first, first:last].T @ wanted[:first]
        _code_batch(
            part, within, order[first:last], lanes.scale, lanes.lowest, draft.top, draft.block_size, lanes.steps
        )


@compiled(fastmath=FUSED)
def _code_batch(
    wanted: Float32Array,
    factor: Float32Array,
    columns: npt.NDArray[np.intp],
    scale: Float32Array,
    lowest: Float32Array,
    top: np.float32,
    block_size: int,
    steps: Float32Array,
) -> None:
    """Code one batch of columns; `wanted` ends up as the errors, each in units of its column's own factor."""
    for begin in range(0, columns.size, _PIECE):
        end = min(columns.size, begin + _PIECE)
        add_product(factor, begin, end, 0, begin, wanted, wanted)
        for j in range(begin, end):
            block = columns[j] // block_size
            w, t, step, low = wanted[j], steps[columns[j]], scale[block], lowest[block]
            unit = np.float32(1) / factor[j, j]
            for lane in range(w.size):
                code = np.rint(w[lane] / step[lane])
                code = code if code > low[lane] else low[lane]
                code = code if code < low[lane] + top else low[lane] + top
                t[lane] = code
                w[lane] = (step[lane] * code - w[lane]) * unit
            for i in range(j + 1, end):
                part, line = factor[i, j], wanted[i]
                for lane in range(w.size):
                    line[lane] += part * w[lane]
