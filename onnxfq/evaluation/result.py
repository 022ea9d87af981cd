"""What an evaluation found: as data and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from onnxfq.metrics.gates import Gate, require_all
from onnxfq.metrics.metric import Metric
from onnxfq.metrics.output_error import OutputAccuracy

JSON_VERSION = 1


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A model's figures, beside a baseline's where there is one.

    Attributes:
        model: the file or folder.
        baseline: what it was compared with; None where there was nothing.
        task: "language", "sts", "classification", "generation" or "outputs".
        provider: "cpu" or "cuda".
        figures: what was measured, by task. language: perplexity, kl, kl_p999, top1 (text), lambada_accuracy,
            lambada_loss (data). sts: spearman, cosine. classification: accuracy, loss, kl, top1. generation: bleu,
            chrf, same_text. outputs: relative_mse, cosine, kl, top1, each of the output in which it is worst.
        outputs: of the task "outputs", the error of every output.
        gates: limits and whether they hold.
        warnings: what the user should know.
        settings: what was asked for.

    Example:
        >>> found = onnxfq.evaluate("model.int4.onnx", "model.onnx", text="test.txt", seq_len=128, samples=4)
        >>> found["kl"].value < 0.5
        True
        >>> [figure.name for figure in found.figures]
        ['perplexity', 'kl', 'kl_p999', 'top1']
    """

    model: str
    baseline: str | None
    task: str
    provider: str
    figures: tuple[Metric, ...]
    outputs: tuple[OutputAccuracy, ...] = ()
    gates: tuple[Gate, ...] = ()
    warnings: tuple[str, ...] = ()
    onnxfq_version: str = ""
    runtime_version: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Metric:
        """A figure by its name."""
        for figure in self.figures:
            if figure.name == name:
                return figure
        raise KeyError(f"{name}: measured were {', '.join(figure.name for figure in self.figures)}")

    @property
    def passed(self) -> bool:
        """Whether every gate holds."""
        return all(gate.passed for gate in self.gates)

    def require(self) -> Evaluation:
        """Return itself if every gate holds.

        Raises:
            GateError: one does not.
        """
        require_all(self.model, self.gates)
        return self

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `version` is the layout's, and changes when a key is renamed, removed, or means another thing.

        `figures`, `outputs` and `gates` are lists of objects with the attributes of `Metric`, `OutputAccuracy` and
        `Gate`; a figure that is not finite is null and its `note` says why.
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
            "figures": [asdict(f) for f in self.figures],
            "outputs": [asdict(o) for o in self.outputs],
            "gates": [asdict(g) for g in self.gates],
            "warnings": list(self.warnings),
        }
