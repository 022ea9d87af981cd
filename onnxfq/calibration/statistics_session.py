"""Adding up the statistics of one stage, a chunk of tokens at a time, on a device or in host memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxfq.arrays import Array, Float64Array
from onnxfq.calibration.host_sums import HostSums
from onnxfq.calibration.sums import Sums
from onnxfq.executors.serialization import serializable
from onnxfq.graph import gram_model
from onnxfq.providers import ProviderName, facts
from onnxfq.session import Session
from onnxfq.statistics import Statistics

CHUNK_TOKENS = 2048  # adding to a Gram matrix costs as much as so many tokens' products; short samples go together


@serializable
@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """What a chunk of tokens adds to the statistics.

    Attributes:
        tokens: how many.
        gram: [K, K] float32, its `Σ x̃ x̃ᵀ`; None where it is added up already.
        cross: [K, K] float32, its `Σ x x̃ᵀ`; None likewise, or where it is the same.
        drift: [N, K] float32, its `Σ (r − r̃) x̃ᵀ`; None likewise, or without a residual.
        vectors: what else there is of it, [K] or [N] each, by name.
    """

    tokens: int
    gram: Array | None
    cross: Array | None
    drift: Array | None
    vectors: dict[str, Array]


class Totals:
    """Chunks added up, in order: whoever computed them, the sums are the same.

    Args:
        k: the last dimension of the activations.
    """

    def __init__(self, k: int) -> None:
        self.tokens = 0
        self.gram: Float64Array | None = None
        self.cross: Float64Array | None = None
        self.drift: Float64Array | None = None
        self._drift_sum: Float64Array | None = None
        self._sum, self._float_sum = np.zeros(k), np.zeros(k)
        self._min, self._max = np.full(k, np.inf), np.full(k, -np.inf)

    def add(self, chunk: Chunk) -> None:
        """Add a chunk."""
        self.tokens += chunk.tokens
        self.gram, self.cross = _added(self.gram, chunk.gram), _added(self.cross, chunk.cross)
        self.drift = _added(self.drift, chunk.drift)
        self._drift_sum = _added(self._drift_sum, chunk.vectors.get("drift_sum"))
        self._sum += chunk.vectors["sum"]
        self._float_sum += chunk.vectors["original_sum"]
        self._min = np.minimum(self._min, chunk.vectors["min"])
        self._max = np.maximum(self._max, chunk.vectors["max"])

    def statistics(self) -> Statistics:
        """Means over all tokens."""
        count = max(self.tokens, 1)
        return Statistics(
            tokens=self.tokens,
            gram=None if self.gram is None else self.gram / count,
            cross=None if self.cross is None else self.cross / count,
            mean=self._sum / count,
            float_mean=self._float_sum / count,
            min=float(self._min.min()),
            max=float(self._max.max()),
            drift=None if self.drift is None else self.drift / count,
            drift_mean=None if self._drift_sum is None else self._drift_sum / count,
        )


def _added(total: Float64Array | None, product: Array | None) -> Float64Array | None:
    """The sum in float64, as sessions and `HostSums` add it."""
    if product is None:
        return total
    if total is None:
        return product.astype(np.float64)
    return np.add(total, product, out=total)


class Gram:
    """The statistics of one stage, added up here, or chunk by chunk for somebody else to add up.

    Args:
        dtype: of the activations.
        k: their last dimension.
        crossed: whether the quantized model's activations differ from the original's.
        transposed: activations are [K, tokens].
        rounded_in: columns that share a scale where the kernel rounds its input to int8; None where it does not.
        provider: where to compute.
        threads: to use at most; None for all.
        apart: chunks are returned and not added up.
        drifts: columns of the residual's error; None without one.
    """

    def __init__(
        self,
        dtype: np.dtype[np.generic],
        k: int,
        *,
        crossed: bool,
        transposed: bool,
        rounded_in: int | None,
        provider: ProviderName,
        threads: int | None,
        apart: bool = False,
        drifts: int | None = None,
    ) -> None:
        start = {"gram": np.zeros((k, k)), "cross": np.zeros((k, k))}
        if drifts is not None:
            start["drift"] = np.zeros((drifts, k))
        self._sums: Sums | HostSums  # where a device computes, sums stay there; elsewhere numpy adds them up
        if facts(provider).host_memory:
            self._sums = HostSums(start, crossed=crossed, transposed=transposed, rounded_in=rounded_in, threads=threads)
        else:
            drifting = drifts is not None
            model = gram_model(dtype, k, crossed=crossed, transposed=transposed, rounded_in=rounded_in, drifts=drifting)
            self._sums = Sums(Session(model, provider=provider, threads=threads), start)
        self._axis, self._same, self._apart = int(transposed), not crossed and rounded_in is None, apart
        self._waiting: list[tuple[Array, Array | None, Array]] = []
        self._differences: list[Array] = []
        self._pending = 0
        self._totals, self._chunks = Totals(k), list[Chunk]()
        self._k, self._transposed = k, transposed

    def add(self, original: Array, quantized: Array | None, rows: Array, difference: Array | None = None) -> None:
        """Add one sample.

        Args:
            original: activations [..., K], or [K, tokens] where they are transposed.
            quantized: the same in the quantized model; None where they are the same.
            rows: int64, which of the tokens count.
            difference: [rows, N] float32, error of the residual for these tokens; None without one.
        """
        if not rows.size:
            return
        if difference is not None:
            self._differences.append(difference)
        self._waiting.append((self._flat(original), None if quantized is None else self._flat(quantized), rows))
        self._pending += len(rows)
        if self._pending >= CHUNK_TOKENS:
            self._add_chunk()

    def flush(self) -> list[Chunk]:
        """End a chunk; returns the chunks since the last call where these are not added up."""
        self._add_chunk()
        chunks, self._chunks = self._chunks, []
        return chunks

    def statistics(self) -> Statistics:
        """Means over all tokens added."""
        self._add_chunk()
        sums = self._sums.read()
        self._totals.gram, self._totals.cross = sums["gram"], None if self._same else sums["cross"]
        self._totals.drift = sums.get("drift")
        return self._totals.statistics()

    def _flat(self, value: Array) -> Array:
        return value if self._transposed else value.reshape(-1, self._k)

    def _add_chunk(self) -> None:
        if not self._waiting:
            return
        sizes = np.cumsum([0] + [w[0].shape[self._axis] for w in self._waiting[:-1]])
        feed = {"rows": np.concatenate([w[2] + size for w, size in zip(self._waiting, sizes, strict=True)])}
        feed["original"] = np.concatenate([w[0] for w in self._waiting], axis=self._axis)
        twins = [w[1] for w in self._waiting if w[1] is not None]
        if twins:
            feed["quantized"] = np.concatenate(twins, axis=self._axis)
        if self._differences:
            feed["difference"] = np.concatenate(self._differences)
        vectors, tokens = self._sums.add(feed), len(feed["rows"])
        if self._apart:  # the products are exact in float32: that is how they were computed
            sums = {name: value.astype(np.float32) for name, value in self._sums.take().items()}
            cross = None if self._same else sums["cross"]
            self._chunks.append(Chunk(tokens, sums["gram"], cross, sums.get("drift"), vectors))
        else:
            self._totals.add(Chunk(tokens, None, None, None, vectors))
        self._waiting, self._differences, self._pending = [], [], 0
