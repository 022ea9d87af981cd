"""What an evaluation found: as data and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from onnxfq.metrics.gates import Gate, Gated
from onnxfq.metrics.metric import Metric
from onnxfq.metrics.output_accuracy import OutputAccuracy
from onnxfq.system.notebook import notebook_table
from onnxfq.system.terminal import one_line

JSON_VERSION = 2


@dataclass(frozen=True, slots=True, repr=False)
class Evaluation(Gated):
    """What was measured of a model, beside the same of a baseline where there is one.

    Attributes:
        model: the file or folder.
        baseline: what it was compared with; None where there was nothing.
        task: the name of one of `onnxfq.evaluation.tasks.TASKS`.
        provider: "cpu" or "cuda".
        metrics: what was measured: those that the task names, as far as they need no baseline or there is one.
        outputs: of the task "outputs", the error of every output.
        gates: limits and whether they hold.
        warnings: what the user should know.
        settings: what was asked for.

    Example:
        >>> found = onnxfq.evaluate("model.int4.onnx", "model.onnx", text="test.txt", seq_len=128, samples=4)
        >>> found["kl"].value < 0.5
        True
        >>> [metric.name for metric in found.metrics]
        ['perplexity', 'kl', 'kl_p999', 'top1']
    """

    model: str
    baseline: str | None
    task: str
    provider: str
    metrics: tuple[Metric, ...]
    outputs: tuple[OutputAccuracy, ...] = ()
    gates: tuple[Gate, ...] = ()
    warnings: tuple[str, ...] = ()
    onnxfq_version: str = ""
    runtime_version: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        models = " against ".join(one_line(path) for path in (self.model, self.baseline) if path)
        known = [f"{metric.name} {metric.value:.4g}" for metric in self.metrics if metric.value is not None]
        facts = "; ".join(filter(None, (f"{self.task}: {', '.join(known)}" if known else self.task, self._gates_text)))
        return f"<Evaluation {models}: {facts}>"

    def _repr_html_(self) -> str:
        rows = [
            (m.name, *("–" if value is None else f"{value:.4g}" for value in (m.value, m.baseline, m.difference)))
            for m in self.metrics
        ]
        notes = [*(f"Gate {gate}" for gate in self.gates), *self.warnings]
        return notebook_table(self.model, (self.task, "model", "baseline", "difference"), rows, notes)

    def __getitem__(self, name: str) -> Metric:
        """A metric by its name."""
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(f"{name}: measured were {', '.join(metric.name for metric in self.metrics)}")

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `version` is the layout's, and changes when a key is renamed, removed, or means another thing.

        `metrics`, `outputs` and `gates` are lists of objects with the attributes of `Metric`, `OutputAccuracy` and
        `Gate`; a value that is not finite is null and the `note` says why.
        """
        return {
            "version": JSON_VERSION,
            "onnxfq": self.onnxfq_version,
            "onnxruntime": self.runtime_version,
            "model": self.model,
            "baseline": self.baseline,
            "task": self.task,
            "provider": self.provider,
            "settings": self.settings,
            "metrics": [asdict(m) for m in self.metrics],
            "outputs": [asdict(o) for o in self.outputs],
            "gates": [asdict(g) for g in self.gates],
            "warnings": list(self.warnings),
        }

    def _gated(self) -> str:
        return self.model
