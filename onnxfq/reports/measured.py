"""What the comparison of two models found, as metrics that gates can be held against."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from onnxfq.benchmarking.latency import Latency
from onnxfq.benchmarking.speed_verdict import speed_metric
from onnxfq.metrics.metric import Metric
from onnxfq.metrics.output_error import LOGITS_WORDS, OutputAccuracy, worst_metrics

_MISSING = {
    "relative_mse": "no output is floating-point",
    "cosine": "no output is floating-point",
    "kl": f"no floating-point output is named {' or '.join(LOGITS_WORDS)}",
}


def measured(
    outputs: Sequence[OutputAccuracy], latencies: Sequence[Latency], language: Sequence[Metric]
) -> list[Metric]:
    """One metric for each that a gate can be about; where there is no value, its note says why.

    Args:
        outputs: accuracy of each output; none where nothing was compared.
        latencies: each case timed.
        language: metrics on running text.
    """
    if not outputs and not latencies:
        return [Metric(name, None, note="the models were not compared") for name in (*_MISSING, *_OTHERS)]
    return [*_accuracy(outputs), _slowest(latencies), *(language or [_no_text()])]


def unseen(metrics: Iterable[Metric]) -> list[Metric]:
    """The same, without values for accuracy: of a comparison that met no quantized weight."""
    note = "no output depends on a quantized weight with these inputs"
    return [replace(m, value=None, note=note) if m.name in (*_MISSING, "top1") else m for m in metrics]


_OTHERS = ("speedup", "perplexity")


def _accuracy(outputs: Sequence[OutputAccuracy]) -> Iterator[Metric]:
    found = {metric.name: metric for metric in worst_metrics(outputs)}
    for name, note in _MISSING.items():
        yield found.get(name) or Metric(name, None, note=note)


def _slowest(latencies: Sequence[Latency]) -> Metric:
    if not latencies:
        return Metric("speedup", None, note="models that are run piece by piece are not timed")
    return min((speed_metric(x.label, x.speedup, x.low, x.high) for x in latencies), key=lambda found: found.value or 0)


def _no_text() -> Metric:
    return Metric("perplexity", None, note="the perplexity was not measured: it needs text")
