"""A few rows of what products read, from the first samples: enough to tell formats apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxfq.arrays import Float32Array
from onnxfq.calibration.pieces import Pieces, Runtime
from onnxfq.feeds import Feeds
from onnxfq.graph import Graph
from onnxfq.rules import Target

SAMPLES, ROWS = 4, 256  # samples, and rows of all of them together


def sample_inputs(graph: Graph, targets: Sequence[Target], feeds: Feeds, runtime: Runtime) -> dict[str, Float32Array]:
    """Rows [rows, K] of the tensors that targets of the main graph multiply by, by name.

    Targets inside other graphs, and those that read their inputs in another order, are left out.

    Args:
        graph: the model, without edits.
        targets: the products.
        feeds: the samples.
        runtime: where and how the model runs.

    Raises:
        DataError: a sample does not fit.
        ModelError: the model does not run.
    """
    known = [t for t in targets if t.source and not t.source_transposed and t.axes is None]
    widths = {t.source: t.k for t in known if t.node.body is t.node.body.root}
    few = feeds[:SAMPLES]
    if not widths or not few:
        return {}
    pieces = Pieces(graph, few, runtime, (), tuple(widths))
    try:
        pieces.run()
        samples = [pieces.outputs(index) for index in range(len(few))]
    finally:
        pieces.close()
    reached = [name for name in widths if all(name in sample for sample in samples)]
    return {name: _rows([sample[name].reshape(-1, widths[name]) for sample in samples]) for name in reached}


def _rows(parts: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.generic]]]) -> Float32Array:
    """Some rows of all samples, evenly spread."""
    rows = np.concatenate(parts)
    return np.ascontiguousarray(rows[:: max(1, len(rows) // ROWS)][:ROWS], np.float32)
