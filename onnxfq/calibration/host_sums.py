"""Sums in host memory: what `gram_model` adds up on a device, by numpy's products, which are faster on processors.

Each strip of a matrix is a product on one thread, added up in float64 while it is in the cache: the number of threads
changes no sum.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Array, Float32Array
from onnxfq.int8_rows import TOP
from onnxfq.system.compiled import compiled
from onnxfq.system.threads import limited_threads, products_alone, spread

_STRIP = 256  # rows of a matrix, or tokens, that are a piece of work; never derived from the number of threads
_LEFT = {"gram": "inputs", "cross": "original", "drift": "difference"}  # what is multiplied with the inputs, by sum


class HostSums:
    """Adds up chunks of tokens as `Sums` does with a `gram_model`.

    Args:
        start: the first values, [K, K], or [N, K] of `drift`.
        crossed: the two streams differ; otherwise `quantized` is not given.
        transposed: activations are [K, tokens].
        rounded_in: inputs are rounded to int8 in blocks of so many columns; None: as they are.
        threads: to use at most; None for all.
    """

    def __init__(
        self,
        start: Mapping[str, Array],
        *,
        crossed: bool,
        transposed: bool,
        rounded_in: int | None,
        threads: int | None,
    ) -> None:
        self._sums = {name: array.astype(np.float64) for name, array in start.items()}
        self._k, self._transposed = len(start["gram"]), transposed
        self._rounded_in, self._threads = rounded_in, threads
        same = not crossed and rounded_in is None  # then nobody wants a second matrix like the first
        self._wanted = [name for name in start if name != "cross" or not same]

    def add(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Add a chunk, with what a `gram_model` is fed.

        Returns:
            What is of the chunk alone, likewise.
        """
        with limited_threads(self._threads), products_alone():
            original = self._tokens(feed["original"], feed["rows"])
            quantized = self._tokens(feed["quantized"], feed["rows"]) if "quantized" in feed else original
            inputs = quantized if self._rounded_in is None else _rounded(quantized, self._rounded_in)
            values = {"original": original, "inputs": inputs}
            if "difference" in feed:
                values["difference"] = np.ascontiguousarray(feed["difference"], np.float32)
            for name in self._wanted:
                rows = len(self._sums[name])
                spread(self._add_strips, -(-rows // _STRIP), name, values[_LEFT[name]], inputs)
        sums = {"sum": inputs, "original_sum": original, "drift_sum": values.get("difference")}
        vectors = {n: v.sum(axis=0, dtype=np.float64) for n, v in sums.items() if v is not None}
        return {**vectors, "min": quantized.min(axis=0), "max": quantized.max(axis=0)}

    def read(self) -> dict[str, Array]:
        """The sums; `cross` stays as it began where it is nothing but `gram`."""
        gram = self._sums["gram"]
        for start in range(0, self._k, _STRIP):  # only what stands left of the diagonal was added up
            gram[:start, start : start + _STRIP] = gram[start : start + _STRIP, :start].T
            block = gram[start : start + _STRIP, start : start + _STRIP]
            block[:] = np.tril(block) + np.tril(block, -1).T  # products are not symmetric to the last bit everywhere
        return dict(self._sums)

    def take(self) -> dict[str, Array]:
        """The sums, which begin again at zero."""
        found = self.read()
        self._sums = {name: np.zeros_like(array) for name, array in found.items()}
        return found

    def _tokens(self, value: Array, rows: npt.NDArray[np.int64]) -> Float32Array:
        """The wanted rows of activations as [tokens, K]."""
        flat = value.T if self._transposed else value.reshape(-1, self._k)
        return np.ascontiguousarray(flat if len(rows) == len(flat) else flat[rows], np.float32)

    def _add_strips(self, begin: int, end: int, name: str, left: Float32Array, inputs: Float32Array) -> None:
        sums = self._sums[name]
        with np.errstate(over="ignore", invalid="ignore"):  # sums beyond float32 are found not to be numbers
            for start in range(begin * _STRIP, min(end * _STRIP, len(sums)), _STRIP):
                rows, columns = slice(start, start + _STRIP), slice(start + _STRIP if name == "gram" else None)
                np.add(sums[rows, columns], left[:, rows].T @ inputs[:, columns], out=sums[rows, columns])


def _rounded(x: Float32Array, block: int) -> Float32Array:
    """All rows as the kernel rounds them; see `int8_rows.round_to_int8`."""
    found = np.empty_like(x)
    spread(_round_rows, len(x), x, block, np.float32(TOP), found)
    return found


@compiled()
def _round_rows(begin: int, end: int, x: Float32Array, block: int, top: np.float32, found: Float32Array) -> None:
    columns = x.shape[1]
    for row in range(begin, end):
        for start in range(0, columns, block):
            stop, largest = min(start + block, columns), np.float32(0)
            for column in range(start, stop):
                largest = max(largest, abs(x[row, column]))
            step = np.float32(largest / top)
            for column in range(start, stop):
                found[row, column] = np.rint(x[row, column] / step) * step if step > 0 else np.float32(0)
