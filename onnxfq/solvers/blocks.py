"""What every solver does to blocks of a row: their range, the nearest codes on a given grid, and the error of those."""

from __future__ import annotations

import numpy as np

from onnxfq.arrays import Float32Array, Float64Array, Uint8Array
from onnxfq.quantized import QuantizedWeight
from onnxfq.scheme import ScaleType, Scheme
from onnxfq.system.compiled import compiled
from onnxfq.system.threads import spread

_LARGEST = float(np.finfo(np.float32).max)
_LANES = 8  # sums run in this many interleaved parts, so that they vectorise without reordering additions


def block_ranges(weight: Float32Array, block_size: int) -> tuple[Float32Array, Float32Array]:
    """Smallest and largest weight of every block, both widened to contain 0.

    Returns:
        Two arrays [N, ceil(K / block_size)]: what is not above 0, and what is not below.
    """
    n, k = weight.shape
    lowest = np.empty((n, -(-k // block_size)), np.float32)
    highest = np.empty_like(lowest)
    spread(_ranges, n, weight, block_size, lowest, highest)
    return lowest, highest


def encode(weight: Float32Array, scale: Float32Array, zero_point: Uint8Array, bits: int, block_size: int) -> Uint8Array:
    """The nearest codes [N, K] on a grid; what lies outside takes the outermost finite point of it."""
    codes = np.empty(weight.shape, np.uint8)
    spread(_encode, weight.shape[0], weight, scale, zero_point, np.float32((1 << bits) - 1), block_size, codes)
    return codes


def nearest(
    weight: Float32Array, scale: Float32Array, zero_point: Uint8Array, scheme: Scheme, scale_type: ScaleType
) -> QuantizedWeight:
    """The weight [N, K] rounded to nearest on the grid of a scheme's blocks."""
    block_size = scheme.columns_per_block(weight.shape[1])
    return QuantizedWeight(
        codes=encode(weight, scale, zero_point, scheme.bits, block_size),
        scale=scale,
        zero_point=zero_point,
        bits=scheme.bits,
        block_size=block_size,
        scale_type=scale_type,
        symmetric=scheme.symmetric,
    )


def squared_errors(
    weight: Float32Array,
    scale: Float32Array,
    zero_point: Uint8Array,
    bits: int,
    block_size: int,
    importance: Float32Array | None = None,
) -> Float64Array:
    """Squared error of every block [N, ceil(K / block_size)] with the codes that `encode` would choose.

    `importance` [K] says how much an error in each column counts; all count alike without it.
    """
    errors = np.empty(scale.shape, np.float64)
    weights = np.ones(weight.shape[1], np.float32) if importance is None else importance
    spread(
        _errors, weight.shape[0], weight, scale, zero_point, np.float32((1 << bits) - 1), block_size, weights, errors
    )
    return errors


def dot_rows(first: Float32Array, second: Float32Array) -> Float64Array:
    """The sum of products of every row [N], in float64, on this thread alone."""
    sums = np.empty(len(first), np.float64)
    _dot(first, second, sums)
    return sums


# Weights are finite, and least and greatest do not depend on the order in which they are looked for.
@compiled(fastmath=frozenset({"nnan", "nsz", "reassoc"}))
def _ranges(
    begin: int, end: int, weight: Float32Array, block_size: int, lowest: Float32Array, highest: Float32Array
) -> None:
    k = weight.shape[1]
    for row in range(begin, end):
        for block in range(lowest.shape[1]):
            values = weight[row, block * block_size : min(k, (block + 1) * block_size)]
            low = np.float32(0)
            high = np.float32(0)
            for i in range(values.size):
                low = values[i] if values[i] < low else low
                high = values[i] if values[i] > high else high
            lowest[row, block] = low
            highest[row, block] = high


@compiled()
def _dot(first: Float32Array, second: Float32Array, sums: Float64Array) -> None:
    lanes, k = np.empty(_LANES, np.float64), first.shape[1]
    whole = k // _LANES * _LANES
    for row in range(sums.size):
        lanes[:] = 0.0
        for start in range(0, whole, _LANES):
            for lane in range(_LANES):
                lanes[lane] += np.float64(first[row, start + lane]) * np.float64(second[row, start + lane])
        for column in range(whole, k):
            lanes[0] += np.float64(first[row, column]) * np.float64(second[row, column])
        sums[row] = lanes.sum()


@compiled()
def limits_of(step: np.float32, zero: np.float32, top: np.float32) -> tuple[np.float32, np.float32]:
    """The outermost points of a grid, in steps from its zero point, whose values are finite."""
    reach = np.float32(np.floor(_LARGEST / abs(step)))
    return max(-zero, -reach), min(top - zero, reach)


@compiled()
def _nearest(value: np.float32, step: np.float32, low: np.float32, high: np.float32) -> np.float32:
    """The nearest point of a grid, in steps from its zero point."""
    steps = value / step
    steps = low if steps < low else steps
    steps = high if steps > high else steps
    rounded: np.float32 = np.rint(steps)
    return rounded


@compiled()
def _encode(
    begin: int,
    end: int,
    weight: Float32Array,
    scale: Float32Array,
    zero_point: Uint8Array,
    top: np.float32,
    block_size: int,
    codes: Uint8Array,
) -> None:
    k = weight.shape[1]
    for row in range(begin, end):
        for block in range(scale.shape[1]):
            step = scale[row, block]
            zero = np.float32(zero_point[row, block])
            low, high = limits_of(step, zero, top)
            last = min(k, (block + 1) * block_size)
            values, places = weight[row, block * block_size : last], codes[row, block * block_size : last]
            for i in range(values.size):
                places[i] = np.uint8(np.int32(_nearest(values[i], step, low, high) + zero))


@compiled()
def _errors(
    begin: int,
    end: int,
    weight: Float32Array,
    scale: Float32Array,
    zero_point: Uint8Array,
    top: np.float32,
    block_size: int,
    importance: Float32Array,
    errors: Float64Array,
) -> None:
    k = weight.shape[1]
    for row in range(begin, end):
        lanes = np.empty(_LANES, np.float64)
        for block in range(scale.shape[1]):
            first = block * block_size
            last = min(k, first + block_size)
            step = scale[row, block]
            low, high = limits_of(step, np.float32(zero_point[row, block]), top)
            lanes[:] = 0.0
            whole = first + (last - first) // _LANES * _LANES
            for start in range(first, whole, _LANES):
                for lane in range(_LANES):
                    value = weight[row, start + lane]
                    error = np.float64(value) - np.float64(step * _nearest(value, step, low, high))
                    lanes[lane] += error * error * importance[start + lane]
            for column in range(whole, last):
                value = weight[row, column]
                error = np.float64(value) - np.float64(step * _nearest(value, step, low, high))
                lanes[0] += error * error * importance[column]
            errors[row, block] = lanes.sum()


@compiled()
def spanning_grid(low: np.float64, high: np.float64, top: int, smallest: np.float32) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of the grid with codes 0 to `top` that spans [low, high]; for compiled loops."""
    exact = min((high - low) / top, _LARGEST)
    step = np.float32(exact)
    if np.float64(step) < exact * (1 - 2.0**-20):  # among subnormal numbers
        step = smallest
    step = max(step, smallest)
    return step, np.uint8(min(max(np.rint(-low / step), 0.0), np.float64(top)))
