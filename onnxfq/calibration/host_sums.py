"""Sums in host memory: what `gram_model` adds up on a device, by the products of numpy, which are faster on processors.

Each strip of a matrix is one product on one thread, added up in float64 while it is in the cache: the same sums, whoever
computes them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Array, Float32Array, Float64Array
from onnxfq.calibration.int8_rows import round_to_int8
from onnxfq.solvers.rows import products_alone
from onnxfq.system.threads import limited_threads, spread

_STRIP = 256  # rows of a matrix, or tokens, that are one piece of work; never derived from the number of threads


class HostSums:
    """Adds chunks of tokens to Gram matrices; takes and gives what `Sums` does for a `gram_model`.

    Args:
        k: the last dimension of the activations.
        crossed: the two streams differ; otherwise `quantized` is not given.
        transposed: activations are [K, tokens].
        rounded_in: inputs are rounded to int8 in blocks of so many columns; None: as they are.
        threads: to use at most; None for all.
    """

    def __init__(
        self, k: int, *, crossed: bool, transposed: bool, rounded_in: int | None, threads: int | None
    ) -> None:
        self._k, self._transposed, self._rounded_in, self._threads = k, transposed, rounded_in, threads
        self._crossed = crossed or rounded_in is not None
        self._sums = {name: np.zeros((k, k)) for name in ("gram", "cross")}

    def add(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Add a chunk: `original`, `quantized` where the streams differ, and the `rows` of tokens that count.

        Returns:
            What is of the chunk alone, [K] each: `sum`, `original_sum`, `min` and `max`.
        """
        with limited_threads(self._threads):
            original = self._tokens(feed["original"], feed["rows"])
            quantized = self._tokens(feed["quantized"], feed["rows"]) if "quantized" in feed else original
            inputs = quantized if self._rounded_in is None else _rounded(quantized, self._rounded_in)
            with products_alone():
                spread(self._add_strips, -(-self._k // _STRIP), original, inputs)
        return {
            "sum": inputs.sum(axis=0, dtype=np.float64),
            "original_sum": original.sum(axis=0, dtype=np.float64),
            "min": quantized.min(axis=0),
            "max": quantized.max(axis=0),
        }

    def read(self) -> dict[str, Array]:
        """The sums; `cross` is zero where it would be equal to `gram`."""
        gram = self._sums["gram"]
        for start in range(0, self._k, _STRIP):  # what stands above the diagonal stands below it too
            gram[:start, start : start + _STRIP] = gram[start : start + _STRIP, :start].T
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

    def _add_strips(self, begin: int, end: int, original: Float32Array, inputs: Float32Array) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # sums beyond float32 are found not to be numbers
            for start in range(begin * _STRIP, min(end * _STRIP, self._k), _STRIP):
                rows, stop = slice(start, start + _STRIP), min(start + _STRIP, self._k)
                _add(self._sums["gram"][rows, :stop], inputs[:, rows].T @ inputs[:, :stop])
                if self._crossed:
                    _add(self._sums["cross"][rows], original[:, rows].T @ inputs)


def _add(sums: Float64Array, product: Float32Array) -> None:
    np.add(sums, product, out=sums)


def _rounded(x: Float32Array, block: int) -> Float32Array:
    """All rows as the kernel rounds them."""
    found = np.empty_like(x)

    def strips(begin: int, end: int) -> None:
        for start in range(begin * _STRIP, min(end * _STRIP, len(x)), _STRIP):
            found[start : start + _STRIP] = round_to_int8(x[start : start + _STRIP], block)

    spread(strips, -(-len(x) // _STRIP))
    return found
