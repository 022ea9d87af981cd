"""Samples put together for calibration, where the model treats those of a batch as it does each alone."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from onnxfq.arrays import Array
from onnxfq.calibration.pieces import Pieces, Runtime
from onnxfq.errors import OnnxfqError, OutputError
from onnxfq.feeds import Batches, Feeds, alone, batched, fingerprint
from onnxfq.graph import Graph

_LOGGER = logging.getLogger(__name__)

_TRIED = 3  # samples of a batch, at most
_TOLERANCE = 1e-2  # of the largest output: float16 is summed up in other orders; what mixes samples is far off


def put_together(graph: Graph, feeds: Feeds, held: Collection[int], runtime: Runtime) -> Batches:
    """Texts of one length in batches; every sample alone where a batch gives anything else, or does not run.

    Args:
        graph: the model.
        feeds: the samples.
        held: samples that stay alone.
        runtime: where and how the model runs.

    Raises:
        OutputError: what is kept does not fit on the disk.
    """
    batches = batched(feeds, graph.signature, held)
    if batches.feeds is feeds:
        return batches
    tried = next((found for members in batches.members if (found := _different(feeds, members))), None)
    if tried is None:
        return alone(feeds)
    together = batched(tried, graph.signature)
    try:
        pieces = Pieces(graph, [*together.feeds, *tried], runtime)
        try:
            pieces.run()
            first, *others = [pieces.outputs(sample) for sample in range(len(tried) + 1)]
        finally:
            pieces.close()
    except OutputError:
        raise
    except OnnxfqError as error:
        _LOGGER.debug("samples stay alone: %s", error)
        return alone(feeds)
    if are_rows_of(first, others, _TOLERANCE):
        return batches
    _LOGGER.debug("samples stay alone: their outputs differ in a batch")
    return alone(feeds)


def _different(feeds: Feeds, members: Sequence[int]) -> Feeds | None:
    """A few samples of a batch that differ: those that are alike would pass for each other; None where all are."""
    found = {fingerprint([feeds[index]]): feeds[index] for index in members[: _TRIED**2]}
    return Feeds(tuple(found.values())[:_TRIED], feeds.origin) if len(found) > 1 else None


def are_rows_of(batch: Mapping[str, Array], singles: Sequence[Mapping[str, Array]], tolerance: float) -> bool:
    """Whether outputs of a batch are those of its samples, each run alone, but for rounding.

    Args:
        batch: outputs by name.
        singles: likewise, of each sample.
        tolerance: largest difference, in parts of the largest number of an output.
    """
    for name, value in batch.items():
        rows = [single.get(name) for single in singles]
        if value.ndim == 0 or any(row is None or row.shape != (1, *value.shape[1:]) for row in rows):
            return False
        wanted = np.concatenate([row for row in rows if row is not None])
        if wanted.shape != value.shape or not _alike(value, wanted, tolerance):
            return False
    return bool(batch)


def _alike(value: Array, wanted: Array, tolerance: float) -> bool:
    """Whether numbers are the same but for rounding, infinite ones and whatever else is no number exactly."""
    if value.dtype.kind not in "fV":
        return np.array_equal(value, wanted)
    one, other = value.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(other)
    if not np.array_equal(one[~finite], other[~finite]):
        return False
    difference = np.abs(one[finite] - other[finite])
    return not difference.size or bool(difference.max() <= tolerance * np.abs(other[finite]).max())
