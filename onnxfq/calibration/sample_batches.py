"""Samples put together for calibration, where the model treats those of a batch as it does each alone."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

from onnxfq.calibration.pieces import Pieces, Runtime
from onnxfq.errors import OnnxfqError, OutputError
from onnxfq.feeds import Batches, Feeds, alone, are_rows_of, batched, fingerprint
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
