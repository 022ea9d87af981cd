"""Each metric of the output in which it is worst: what gates are about, and what says nothing left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from onnxfq.metrics.metric import Metric
from onnxfq.metrics.output_accuracy import OutputAccuracy

LOGITS_WORDS = ("logits", "scores")  # one of them in an output's name says that it holds logits


def worst_metrics(outputs: Iterable[OutputAccuracy], samples: int | None = None) -> list[Metric]:
    """Each metric of the floating outputs where it is worst, with the output's name as its note.

    A value that one output should have and has not, because something in it is not finite, or because the shapes in
    both models differ, is worse than any number. Outputs that no quantized weight reaches do not count: their error is
    0 in any case.

    Args:
        outputs: what `compare` found.
        samples: how many samples that were, where that is known.
    """
    floats = _floats(outputs)
    broken = next((output for output in floats if output.relative_mse is None), None)
    if broken is not None:
        return [Metric(name, None, samples=samples, note=f"{broken.name}: {broken.note}") for name in WORST]
    metrics = []
    for name, worst in WORST.items():
        known = [(value, output) for output in floats if (value := getattr(output, name)) is not None]
        if known:
            value, output = worst(known, key=lambda pair: pair[0])
            note = f"of {output.name}" + (f", {output.note}" if output.note and output.is_alike else "")
            metrics.append(Metric(name, value, samples=samples, note=note))
    return metrics


def told_metrics(outputs: Sequence[OutputAccuracy], samples: int | None = None, *, changed: bool) -> list[Metric]:
    """All that gates on outputs may be about; without a value, and with the reason, where nothing was measured.

    Args:
        outputs: what `compare` found.
        samples: how many samples that were, where that is known.
        changed: whether weights are others than the reference's, so that an error of exactly 0 in all floating outputs
            says that these did not depend on them.
    """
    found = {metric.name: metric for metric in worst_metrics(outputs, samples)}
    told = [found.get(name) or Metric(name, None, samples=samples, note=_why_none(name, outputs)) for name in WORST]
    if changed and are_unchanged(_floats(outputs)):
        return [replace(metric, value=None, note=UNSEEN) for metric in told]
    return told


def are_unchanged(outputs: Sequence[OutputAccuracy]) -> bool:
    """Whether there are outputs, and all of them are what they were."""
    return bool(outputs) and all(output.is_unchanged for output in outputs)


UNSEEN = "no output depends on a quantized weight with these inputs"


def _floats(outputs: Iterable[OutputAccuracy]) -> list[OutputAccuracy]:
    return [output for output in outputs if output.is_float and not output.is_empty and output.reached]


def _why_none(name: str, outputs: Sequence[OutputAccuracy]) -> str:
    """Why no output has a figure of some name."""
    floats = [output for output in outputs if output.is_float]
    if not floats:
        others = "; ".join(f"{o.name}: {o.note}" for o in outputs if o.note)
        return f"no output is floating-point{f' ({others})' if others else ''}"
    if all(output.is_empty for output in floats):
        return "no floating-point output has elements"
    if not _floats(outputs):
        return "no quantized weight reaches a floating-point output"
    if name == "cosine":
        return "no floating-point output has rows of several numbers"
    logits = [output.name for output in _floats(outputs) if any(word in output.name.lower() for word in LOGITS_WORDS)]
    if logits:
        return f"no row of {', '.join(logits)} is a distribution"
    return f"no floating-point output is named {' or '.join(LOGITS_WORDS)}"


WORST: dict[str, Callable[..., tuple[float, OutputAccuracy]]] = {
    "relative_mse": max,
    "cosine": min,
    "kl": max,
    "top1": min,
}
