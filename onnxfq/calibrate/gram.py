"""Adding up the statistics of one stage, a chunk of tokens at a time, inside ONNX Runtime."""

from __future__ import annotations

import numpy as np

from onnxfq.calibrate.sums import Sums
from onnxfq.graph import gram_model
from onnxfq.session import Array, Provider, Session
from onnxfq.statistics import Statistics

CHUNK_TOKENS = 2048  # adding to a Gram matrix costs as much as so many tokens' products; short samples go together


class Gram:
    """The statistics of one stage.

    Args:
        dtype: of the activations.
        k: their last dimension.
        crossed: whether the quantised model's activations differ from the original's.
        transposed: activations are [K, tokens].
        rounded_in: columns that share a scale where the kernel rounds its input to int8; None where it does not.
        provider: where to compute.
        threads: for the session.
    """

    def __init__(
        self,
        dtype: np.dtype[np.generic],
        k: int,
        *,
        crossed: bool,
        transposed: bool,
        rounded_in: int | None,
        provider: Provider,
        threads: int | None,
    ) -> None:
        model = gram_model(dtype, k, crossed=crossed, transposed=transposed, rounded_in=rounded_in)
        zeros = np.zeros((k, k))
        self._sums = Sums(Session(model, provider=provider, threads=threads), {"gram": zeros, "cross": zeros})
        self._axis, self._same = int(transposed), not crossed and rounded_in is None
        self._waiting: list[tuple[Array, Array | None, Array]] = []
        self._pending = self.tokens = 0
        self._sum, self._float_sum = np.zeros(k), np.zeros(k)
        self._least, self._largest = np.full(k, np.inf), np.full(k, -np.inf)
        self._k, self._transposed = k, transposed

    def add(self, original: Array, quantised: Array | None, rows: Array) -> None:
        """Add one sample.

        Args:
            original: activations [..., K], or [K, tokens] where they are transposed.
            quantised: the same in the quantised model; None where they are the same.
            rows: int64, which of the tokens count.
        """
        if not rows.size:
            return
        self._waiting.append((self._flat(original), None if quantised is None else self._flat(quantised), rows))
        self._pending += len(rows)
        if self._pending >= CHUNK_TOKENS:
            self._flush()

    def statistics(self) -> Statistics:
        """Means over all tokens added."""
        self._flush()
        count = max(self.tokens, 1)
        sums = self._sums.read()
        return Statistics(
            tokens=self.tokens,
            gram=sums["gram"] / count,
            cross=None if self._same else sums["cross"] / count,
            absmax=np.maximum(np.abs(self._least), np.abs(self._largest)),
            mean=self._sum / count,
            float_mean=self._float_sum / count,
            least=float(self._least.min()),
            largest=float(self._largest.max()),
        )

    def _flat(self, value: Array) -> Array:
        return value if self._transposed else value.reshape(-1, self._k)

    def _flush(self) -> None:
        if not self._waiting:
            return
        sizes = np.cumsum([0] + [w[0].shape[self._axis] for w in self._waiting[:-1]])
        feed = {"rows": np.concatenate([w[2] + size for w, size in zip(self._waiting, sizes, strict=True)])}
        feed["original"] = np.concatenate([w[0] for w in self._waiting], axis=self._axis)
        twins = [w[1] for w in self._waiting if w[1] is not None]
        if twins:
            feed["quantised"] = np.concatenate(twins, axis=self._axis)
        found = self._sums.add(feed)
        self.tokens += len(feed["rows"])
        self._sum += found["sum"]
        self._float_sum += found["original_sum"]
        self._least = np.minimum(self._least, found["least"])
        self._largest = np.maximum(self._largest, found["largest"])
        self._waiting, self._pending = [], 0
