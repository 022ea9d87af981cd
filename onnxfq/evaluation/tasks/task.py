"""What an evaluation task is: what it needs, which models and data it suits, and what it measures of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from onnxfq.errors import UsageError
from onnxfq.evaluation.evaluation_config import EvaluationConfig
from onnxfq.metrics.metric import Metric
from onnxfq.metrics.output_accuracy import OutputAccuracy
from onnxfq.signature import Signature

Takes = Literal["data", "data or text", "data and text"]
TaskResult = tuple[Sequence[Metric], Sequence[OutputAccuracy]]


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of evaluation.

    Attributes:
        name: as users know it.
        needs: the data, for messages: "pairs of sentences with their scores, with `data=FILE.csv`".
        takes: "data" alone, "data or text" (one of them), or "data and text" (one of them or both).
        fits: whether it suits a configuration for which no task was named; given the model's signature, or None where
            the model is a folder of an encoder and a decoder.
        metrics: what it measures by a configuration, without values.
        run: measures it: the metrics, and the errors of outputs where those are what is measured.
        folder: whether its models are folders of an encoder and a decoder, and not files.
        notes: what to know about its metrics.
    """

    name: str
    needs: str
    takes: Takes
    fits: Callable[[EvaluationConfig, Signature | None], bool]
    metrics: Callable[[EvaluationConfig], Sequence[Metric]]
    run: Callable[[EvaluationConfig], TaskResult]
    folder: bool = False
    notes: tuple[str, ...] = ()

    def check_data(self, config: EvaluationConfig) -> None:
        """Refuse data that the task does not take.

        Raises:
            UsageError: there are none, or too many.
        """
        if config.data is None and (config.text is None or self.takes == "data"):
            raise UsageError(f"There is nothing to evaluate the model on. The task {self.name} needs {self.needs}.")
        if config.data is not None and config.text is not None and self.takes != "data and text":
            raise UsageError(f"The task {self.name} takes either `text` or `data` (got both). It needs {self.needs}.")
