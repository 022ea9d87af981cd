"""How far every block's range is clipped, chosen by what that changes in the outputs; codes stay the nearest."""

from __future__ import annotations

import numpy as np

from onnxfq.arrays import Float32Array
from onnxfq.quantized import round_scale
from onnxfq.solvers.blocks import encode
from onnxfq.solvers.curvature import Moments
from onnxfq.solvers.draft import Draft, row_losses, take_better_rows
from onnxfq.solvers.rows import EachChunk

_RATIOS = np.array([0.8, 0.84, 0.88, 0.92, 0.96, 1.04, 1.08, 1.12])  # of a scale to the one before
_LARGEST = np.finfo(np.float32).max


def clip(draft: Draft, asymmetry: Float32Array | None, moments: Moments, rounds: int, each: EachChunk) -> None:
    """Give one block after another the scale that is best under the full objective while the others stay.

    Errors of a block's weights meet those of all others in the outputs: a grid a little wider or narrower than the one
    with the least error of its own often makes up for what the others do.

    Source: J. Lin et al., "AWQ: Activation-aware Weight Quantization", 2023, whose code searches for a clipping ratio
    of every block. Differs: judged by second moments, all other blocks given, instead of each by itself on samples.

    Args:
        draft: codes at the nearest points of its grids; stays so.
        asymmetry: `W(G − H)` of `asymmetric_term`.
        moments: of the inputs.
        rounds: how many times all blocks are visited.
        each: calls a function with every chunk of rows.
    """
    if not isinstance(draft.scheme.block_size, int):
        _clip_rows(draft, asymmetry, moments, rounds, each)
        return

    def work(rows: slice) -> None:
        _clip_blocks(draft.rows(rows), None if asymmetry is None else asymmetry[rows], moments.hessian, rounds)

    each(work)


def _clip_rows(draft: Draft, asymmetry: Float32Array | None, moments: Moments, rounds: int, each: EachChunk) -> None:
    """The same where a row, or all of them, share a grid."""
    losses = row_losses(draft, draft.target, asymmetry, moments, each)
    for _ in range(rounds):
        before = draft.scale.astype(np.float64)
        for ratio in _RATIOS:
            scale = round_scale(before * ratio, draft.scale_type)
            codes = encode(draft.target, scale, draft.zero_point, draft.scheme.bits, draft.block_size)
            rival = Draft(draft.target, codes, scale, draft.zero_point, draft.scheme, draft.scale_type)
            losses = take_better_rows(draft, rival, losses, row_losses(rival, draft.target, asymmetry, moments, each))


def _clip_blocks(draft: Draft, asymmetry: Float32Array | None, hessian: Float32Array, rounds: int) -> None:
    error = draft.dequantized() - draft.target
    for _ in range(rounds):
        for block in range(draft.scale.shape[1]):
            columns = slice(block * draft.block_size, (block + 1) * draft.block_size)
            gradient: Float32Array = np.matmul(error, hessian[:, columns])
            if asymmetry is not None:
                gradient -= asymmetry[:, columns]
            _clip_block(draft, block, columns, gradient, hessian[columns, columns], error[:, columns])


def _clip_block(
    draft: Draft, block: int, columns: slice, gradient: Float32Array, hessian: Float32Array, error: Float32Array
) -> None:
    """Try all ratios on one block of every row; the error follows."""
    weight, zero_point = draft.target[:, columns], draft.zero_point[:, block, None].astype(np.float32)
    scale = round_scale(_RATIOS[:, None] * draft.scale[:, block], draft.scale_type)[..., None]
    reach = np.floor(_LARGEST / np.abs(scale))
    steps = np.rint(np.clip(weight / scale, np.maximum(-zero_point, -reach), np.minimum(draft.top - zero_point, reach)))
    moves = scale * steps - weight - error
    changes = np.einsum("crk,crk->cr", moves, moves @ hessian + 2 * gradient)
    changes = np.where(np.isfinite(changes), changes, np.inf)
    best = changes.argmin(axis=0)
    rows = np.flatnonzero(changes.min(axis=0) < 0)
    best = best[rows]
    draft.scale[rows, block] = scale[best, rows, 0]
    draft.codes[rows, columns] = (steps[best, rows] + zero_point[rows]).astype(np.uint8)
    error[rows] += moves[best, rows]
