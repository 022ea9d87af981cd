"""Whether an evaluation can have met the weights that only one of two models has quantized."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from onnxfq.graph import Graph, reached_outputs
from onnxfq.metrics.metric import Metric
from onnxfq.metrics.worst_outputs import UNSEEN
from onnxfq.rules import is_quantized

_AGREE = {"kl": 0.0, "top1": 1.0}  # of two models that give the same


def quantized_outputs(model: Path, baseline: Path) -> frozenset[str] | None:
    """The outputs that weights reach which are quantized in the model alone; None where there are none.

    Args:
        model: the file of the model.
        baseline: that of what it is compared with.
    """
    loaded = Graph.load(model)
    nodes, before = ([n for n in graph.nodes() if is_quantized(n)] for graph in (loaded, Graph.load(baseline)))
    return reached_outputs(loaded, nodes) if len(nodes) > len(before) else None


def without_unseen(metrics: Sequence[Metric], model: Path, baseline: Path | None) -> Sequence[Metric]:
    """The same metrics; those that say that both models are one have no value where weights were quantized.

    Args:
        metrics: of a task.
        model: the file of the model, or a folder.
        baseline: that of what it is compared with.
    """
    files = baseline is not None and model.is_file() and baseline.is_file()
    if not files or not _is_exact(metrics) or baseline is None or quantized_outputs(model, baseline) is None:
        return metrics
    return [replace(metric, value=None, note=UNSEEN) if metric.name in _AGREE else metric for metric in metrics]


def _is_exact(metrics: Iterable[Metric]) -> bool:
    """Whether KL was measured and is 0 to the last bit."""
    return any(metric.name == "kl" and metric.value == 0.0 for metric in metrics)
