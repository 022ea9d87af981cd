"""A run in a line and in a small table, for consoles of Python and for notebooks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnxfq.benchmarking.latency import Latency
from onnxfq.metrics.metric import Metric
from onnxfq.metrics.output_accuracy import OutputAccuracy
from onnxfq.system.terminal import size_text

MOST_OUTPUTS = 8  # rows; of more, those with the largest error


def brief_error(outputs: Sequence[OutputAccuracy], *, written: bool) -> str:
    """The error in few words."""
    errors = [output.relative_mse for output in outputs if output.relative_mse is not None]
    if errors:
        return f"relative MSE up to {max(errors):.2g}"
    return "not compared" if written else "not written"


def brief_rows(
    sizes: tuple[int, int], outputs: Sequence[OutputAccuracy], latency: Sequence[Latency], language: Sequence[Metric]
) -> Iterator[tuple[str, str, str, str]]:
    """What, the original's figure, the output's, and what they come to.

    Args:
        sizes: bytes before and after.
        outputs: their errors.
        latency: of each case.
        language: figures on texts.
    """
    before, after = sizes
    yield "file size", size_text(before), size_text(after), f"{after / before:.1%}"
    for figure in language:
        yield figure.name, _figure(figure.baseline), _figure(figure.value), ""
    for x in latency:
        old, new = x.time_texts
        yield f"time, {x.label}", f"{old} ms", f"{new} ms", x.speedup_text
    known = sorted((o for o in outputs if o.relative_mse is not None), key=lambda o: -(o.relative_mse or 0))
    for output in known[:MOST_OUTPUTS]:
        yield f"relative MSE, {output.name}", "", _figure(output.relative_mse), ""


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
