"""What the comparison of two models found, as metrics that gates can be held against."""

from __future__ import annotations

from collections.abc import Sequence

from onnxfq.benchmarking.latency import Latency
from onnxfq.benchmarking.speed_verdict import speed_metric
from onnxfq.metrics.metric import Metric
from onnxfq.metrics.output_accuracy import OutputAccuracy
from onnxfq.metrics.worst_outputs import WORST, are_unchanged, told_metrics

_OTHERS = ("speedup", "perplexity")


def measured(
    outputs: Sequence[OutputAccuracy],
    latencies: Sequence[Latency],
    language: Sequence[Metric],
    *,
    changed: bool = False,
) -> list[Metric]:
    """One metric for each that a gate can be about; where there is no value, its note says why.

    Args:
        outputs: accuracy of each output; none where nothing was compared.
        latencies: each case timed.
        language: metrics on running text.
        changed: whether weights are others than the original's.
    """
    if not outputs and not latencies:
        return [Metric(name, None, note="the models were not compared") for name in (*WORST, *_OTHERS)]
    return [*told_metrics(outputs, changed=changed), _slowest(latencies), *(language or [_no_text()])]


def telling(outputs: Sequence[OutputAccuracy], *, changed: bool) -> list[OutputAccuracy]:
    """The outputs whose figures tell of the quantized weights.

    Args:
        outputs: accuracy of each output.
        changed: whether weights are others than the original's; then numbers that are the same to the last bit do not
            depend on them, nor does what is computed from such numbers.
    """
    compared = [output for output in outputs if output.is_compared]
    if not changed:
        return compared
    floats = [output for output in compared if output.is_float]
    if are_unchanged(floats):
        compared = [output for output in compared if not (output.is_float or output.is_unchanged)]
    return [output for output in compared if output.is_float or not output.is_alike]


def not_compared(outputs: Sequence[OutputAccuracy]) -> list[str]:
    """Outputs that nothing can be said about, each with the reason."""
    return [f"{output.name} ({output.note})" for output in outputs if not output.is_compared and output.note]


def _slowest(latencies: Sequence[Latency]) -> Metric:
    if not latencies:
        return Metric("speedup", None, note="models that are run piece by piece are not timed")
    return min((speed_metric(x.label, x.speedup, x.low, x.high) for x in latencies), key=lambda found: found.value or 0)


def _no_text() -> Metric:
    return Metric("perplexity", None, note="the perplexity was not measured: it needs text")
