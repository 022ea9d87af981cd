"""The search for every block's grid: the scale and integer zero point with the least weighted squared error."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Float32Array, Uint8Array
from onnxfq.quantized import round_scale
from onnxfq.scheme import ScaleType, Scheme
from onnxfq.solvers.blocks import squared_errors
from onnxfq.solvers.range_grid import range_grid
from onnxfq.system.compiled import compiled
from onnxfq.system.threads import spread

CANDIDATES = 16  # grids tried at once: a multiple of what vector units hold
FINEST = 0.02  # stages go on until neighbouring candidates' scales differ by less than this
SMALLEST_RATIO = 2.0**-10
EXTRA_STEPS = 3  # grids up to this many steps wider than the range are tried too


def fitted_grid(
    weight: Float32Array, importance: Float32Array, scheme: Scheme, scale_type: ScaleType
) -> tuple[Float32Array, Uint8Array]:
    """The better of every block's fitted and its min/max grid.

    Args:
        weight: [N, K], contiguous.
        importance: [K], how much a squared error in each column counts.
        scheme: the blocks and how many codes there are.
        scale_type: what the scales are rounded to before the two grids are compared.

    Returns:
        Scales and zero points, [N, ceil(K / block_size)].
    """
    block_size = scheme.columns_per_block(weight.shape[1])
    wide_scale, wide_zero_point = range_grid(weight, scheme, scale_type)
    search = _fit_tensor if scheme.block_size == "tensor" else _fit_blocks
    ratio, zero_point = search(weight, importance, wide_scale, wide_zero_point, scheme, block_size)
    scale = round_scale(wide_scale.astype(np.float64) * ratio, scale_type)
    fitted = squared_errors(weight, scale, zero_point, scheme.bits, block_size, importance)
    wide = squared_errors(weight, wide_scale, wide_zero_point, scheme.bits, block_size, importance)
    if scheme.block_size == "tensor":
        fitted, wide = fitted.sum(keepdims=True), wide.sum(keepdims=True)
    better = fitted < wide
    return np.where(better, scale, wide_scale), np.where(better, zero_point, wide_zero_point)


def stages(count: int, scheme: Scheme) -> tuple[Float32Array, Float32Array]:
    """What to try around the best grid so far: factors on its scale and shifts of its zero point.

    The first stage ends where clipping a block's two extremes alone would cost as much as `count` weights do on the
    min/max grid, each taken to err by an eighth of a squared step: above the mean of a twelfth, below the worst of a
    quarter.

    Returns:
        Two arrays [stages, CANDIDATES].
    """
    top = scheme.levels - 1
    smallest = max(1 - math.sqrt(count) / (2 * top), SMALLEST_RATIO)
    starts = CANDIDATES // 2 if scheme.symmetric else CANDIDATES
    first = np.geomspace(smallest, 1 + EXTRA_STEPS / top, starts)
    spacing = math.log(first[1] / first[0])
    stages = [(np.concatenate([first, -first]) if scheme.symmetric else first, np.zeros(CANDIDATES))]
    while len(stages) < 3 or spacing > FINEST:
        stages.append(_around(spacing, top, scheme.symmetric))
        spacing *= 0.4
    return np.array([s[0] for s in stages], np.float32), np.array([s[1] for s in stages], np.float32)


def _around(spacing: float, top: int, symmetric: bool) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """One stage's factors, up to two spacings either way, each with three zero points where these are free."""
    if symmetric:
        return np.exp(np.linspace(-2, 2, CANDIDATES) * spacing), np.zeros(CANDIDATES)
    stride = max(1, round(top * spacing / 2))  # moves an end of the grid about as far as one spacing does
    factors, shifts = np.meshgrid(np.exp(np.linspace(-2, 2, CANDIDATES // 3) * spacing), [-stride, 0, stride])
    rest = CANDIDATES - factors.size
    return np.append(factors, np.ones(rest)), np.append(shifts, np.zeros(rest))


def _fit_blocks(
    weight: Float32Array,
    importance: Float32Array,
    scale: Float32Array,
    zero_point: Uint8Array,
    scheme: Scheme,
    block_size: int,
) -> tuple[Float32Array, Uint8Array]:
    """The best factor on every block's scale, and the zero point that goes with it."""
    factors, shifts = stages(min(block_size, weight.shape[1]), scheme)
    ratio, zero = np.empty_like(scale), np.empty_like(zero_point)
    top = np.float32(scheme.levels - 1)
    spread(
        _search, weight.shape[0], weight, importance, scale, zero_point, factors, shifts, top, block_size, ratio, zero
    )
    return ratio, zero


def _fit_tensor(
    weight: Float32Array,
    importance: Float32Array,
    scale: Float32Array,
    zero_point: Uint8Array,
    scheme: Scheme,
    block_size: int,
) -> tuple[Float32Array, Uint8Array]:
    """The same for one grid under all rows, whose sums are added in the order of rows."""
    top = np.float32(scheme.levels - 1)
    sums = np.empty((weight.shape[0], 3, CANDIDATES), np.float32)
    best = (np.inf, np.float32(1), np.float32(zero_point[0, 0]))
    for factors, shifts in zip(*stages(weight.size, scheme), strict=True):
        ratios, zeros = best[1] * factors, np.clip(best[2] + shifts, np.float32(0), top)
        spread(_row_sums, weight.shape[0], weight, importance, scale[0, 0], ratios, zeros, top, sums)
        best = _pick(sums.sum(axis=0, dtype=np.float64), ratios, zeros, *best)
    return np.full_like(scale, best[1]), np.full_like(zero_point, best[2])


@compiled()
def _pick(
    sums: npt.NDArray[np.floating],
    ratios: Float32Array,
    zeros: Float32Array,
    error: float,
    ratio: np.float32,
    zero: np.float32,
) -> tuple[float, np.float32, np.float32]:
    """The grid, of those summed up and the best so far, whose error is least after its scale was refitted."""
    for c in range(ratios.size):
        if sums[2, c] > 0:
            refit = sums[1, c] / sums[2, c]
            refitted = np.float64(sums[0, c] - sums[1, c] * refit)
            if refitted < error:
                error = refitted
                ratio = np.float32(ratios[c] + refit)
                zero = zeros[c]
    return error, ratio, zero


@compiled()
def _add(
    weights: Float32Array,
    importance: Float32Array,
    unit: np.float32,
    ratios: Float32Array,
    inverses: Float32Array,
    lows: Float32Array,
    highs: Float32Array,
    errors: Float32Array,
    moments: Float32Array,
    squares: Float32Array,
) -> None:
    """For every grid, add up h·e², h·e·t and h·t².

    h is the importance of a weight's column, t its code less the zero point, and e its error.

    The inner loop runs over grids, not weights: it needs no reordered sums to vectorise.
    """
    for k in range(weights.size):
        x = weights[k] * unit
        h = importance[k]
        for c in range(ratios.size):
            t = x * inverses[c]
            t = lows[c] if t < lows[c] else t
            t = highs[c] if t > highs[c] else t
            t = np.rint(t)
            e = x - t * ratios[c]
            errors[c] += h * e * e
            moments[c] += h * e * t
            squares[c] += h * t * t


@compiled()
def _row_sums(
    begin: int,
    end: int,
    weight: Float32Array,
    importance: Float32Array,
    scale: np.float32,
    ratios: Float32Array,
    zeros: Float32Array,
    top: np.float32,
    sums: Float32Array,
) -> None:
    """The three sums of `_add` for every row, [N, 3, CANDIDATES]."""
    inverses = np.float32(1) / ratios
    for row in range(begin, end):
        s = sums[row]
        s[:] = 0
        _add(weight[row], importance, np.float32(1) / scale, ratios, inverses, -zeros, top - zeros, s[0], s[1], s[2])


@compiled()
def _search(
    begin: int,
    end: int,
    weight: Float32Array,
    importance: Float32Array,
    scale: Float32Array,
    zero_point: Uint8Array,
    factors: Float32Array,
    shifts: Float32Array,
    top: np.float32,
    block_size: int,
    ratio: Float32Array,
    zero: Uint8Array,
) -> None:
    """All stages for every block; weights are measured in steps of the block's min/max grid."""
    k = weight.shape[1]
    for row in range(begin, end):
        ratios = np.empty(CANDIDATES, np.float32)  # allocated one by one: views of one array would not vectorise
        zeros = np.empty(CANDIDATES, np.float32)
        inverses = np.empty(CANDIDATES, np.float32)
        lows = np.empty(CANDIDATES, np.float32)
        highs = np.empty(CANDIDATES, np.float32)
        sums = np.empty((3, CANDIDATES), np.float32)
        for block in range(scale.shape[1]):
            first = block * block_size
            last = min(k, first + block_size)
            weights = weight[row, first:last]
            unit = np.float32(1) / scale[row, block]
            best = (np.inf, np.float32(1), np.float32(zero_point[row, block]))
            for stage in range(factors.shape[0]):
                for c in range(CANDIDATES):
                    ratios[c] = best[1] * factors[stage, c]
                    zeros[c] = min(max(best[2] + shifts[stage, c], np.float32(0)), top)
                    inverses[c] = np.float32(1) / ratios[c]
                    lows[c] = -zeros[c]
                    highs[c] = top - zeros[c]
                sums[:] = 0
                _add(weights, importance[first:last], unit, ratios, inverses, lows, highs, sums[0], sums[1], sums[2])
                best = _pick(sums, ratios, zeros, best[0], best[1], best[2])
            ratio[row, block] = best[1]
            zero[row, block] = np.uint8(best[2])
