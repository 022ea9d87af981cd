"""Any model: how far its outputs are from those of the model it was made from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

from onnxfq.errors import UsageError
from onnxfq.evaluation.evaluation_config import EvaluationConfig
from onnxfq.evaluation.quantized_outputs import quantized_outputs
from onnxfq.evaluation.tasks.task import Task, TaskResult
from onnxfq.feeds import Feed, load_feeds, with_configured_sizes
from onnxfq.graph import Graph
from onnxfq.metrics.metric import Metric
from onnxfq.metrics.output_error import compare, has_logits
from onnxfq.metrics.worst_outputs import WORST, told_metrics


def evaluate_outputs(config: EvaluationConfig) -> TaskResult:
    """The error of every output against the baseline's, and each metric of the output in which it is worst.

    Args:
        config: with inputs of the models, or text.

    Returns:
        "relative_mse", "cosine", "kl" and "top1", the last two of outputs that are logits; and every output's error. A
        metric that nothing was measured for has no value, and its note says why.

    Raises:
        UsageError: there is no baseline.
        DataError: the inputs cannot be read, or do not fit the models.
        ModelError: a model does not run.
    """
    if config.baseline is None:
        raise UsageError(
            "The error of a model's outputs is that against another model. Name it with `baseline`, or choose a `task` "
            "that suits the model."
        )
    config.progress("loading", 0, 1)
    baseline, model = config.session(config.baseline), config.session(config.model)
    samples = config.samples or sys.maxsize
    signature = with_configured_sizes(Graph.load(config.baseline).signature, config.baseline)
    path = config.text or config.data_file
    feeds = load_feeds(path, signature, tokenizer=config.tokenizer, samples=samples, seq_len=config.seq_len)
    reached = quantized_outputs(config.model, config.baseline)
    outputs = compare(baseline, model, _counted(list(feeds), config.tell("outputs")), reached)
    metrics = told_metrics(outputs, len(feeds), changed=reached is not None)
    return [m for m in metrics if m.value is not None or m.name in _ALWAYS or has_logits(signature)], outputs


_ALWAYS = ("relative_mse", "cosine")  # of what is left: outputs that are logits have them


def _counted(feeds: Sequence[Feed], tell: Callable[[int, int], None]) -> Iterator[Feed]:
    for number, feed in enumerate(feeds):
        tell(number, len(feeds))
        yield feed


OUTPUTS = Task(
    name="outputs",
    needs="inputs with `data=FILE.npz` or `data=FILE.jsonl`, or text with `text=FILE.txt`",
    takes="data or text",
    fits=lambda config, signature: signature is not None,
    metrics=lambda config: [Metric(name, None) for name in WORST],
    run=evaluate_outputs,
)
