"""The public `evaluate`: load → recognize the task → run both models on the same data → gates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import get_type_hints

from onnxfq.errors import UsageError
from onnxfq.evaluation.evaluation_config import EvaluationConfig, find_tokenizer
from onnxfq.evaluation.quantized_outputs import without_unseen
from onnxfq.evaluation.result import Evaluation
from onnxfq.evaluation.tasks import check_task_name, choose_task
from onnxfq.evaluation.tasks.task import Task
from onnxfq.graph import AnyModel, model_name, on_disk
from onnxfq.metrics.gates import Gates
from onnxfq.model_files import find_model
from onnxfq.progress import Progress
from onnxfq.session import resolve_provider, runtime_version
from onnxfq.setting_types import check_types
from onnxfq.system.following import following
from onnxfq.version import VERSION


def evaluate(
    model: AnyModel,
    baseline: AnyModel | None = None,
    *,
    text: str | Path | None = None,
    data: str | Path | None = None,
    task: str = "auto",
    tokenizer: str | Path | None = None,
    seq_len: int = 512,
    samples: int | None = None,
    provider: str = "auto",
    threads: int | None = None,
    max_ppl_increase: str | float | None = None,
    max_kl: str | float | None = None,
    min_cosine: str | float | None = None,
    max_error: str | float | None = None,
    max_drop: str | float | None = None,
    progress: Progress | bool | None = None,
) -> Evaluation:
    """Measure how good a model is, and how far it is from the one it was made from.

    Both models run through the data together, sample by sample; nothing but numbers is kept of a sample.

    Args:
        model: an ONNX file, or a folder that holds one, or an encoder and a decoder in optimum's layout; or
            an `onnx.ModelProto` with all its tensors.
        baseline: what it is compared with, such as the model before quantization; None compares with nothing.
        text: running text (.txt) for the perplexity of a language model, or for the error of a model's outputs.
        data: passages whose last word is to be found, pairs of sentences with scores, samples with labels, texts with
            translations (.csv, .tsv, .jsonl; .npz with labels), or inputs for the error of a model's outputs.
        task: the name of one of `onnxfq.evaluation.tasks.TASKS`; "auto" tells it from the model and the data.
        tokenizer: the folder of tokenizer.json; None looks beside the model, then beside the baseline.
        seq_len: longest sample, and the length of a window of text, in tokens; the model's own limit holds besides.
        samples: how many windows, passages, pairs or texts to use at most; None for all.
        provider: where the models run: "auto", "cpu" or "cuda".
        threads: threads inside an operator; None leaves the choice to ONNX Runtime.
        max_ppl_increase: gate: how far the perplexity may be above the baseline's, 0.5 or "1%".
        max_kl: gate: largest mean KL, in nats.
        min_cosine: gate: smallest mean cosine of sentences or outputs.
        max_error: gate: largest relative MSE over the floating outputs.
        max_drop: gate: how far scores (accuracy, Spearman, BLEU, chrF) may be below the baseline's, 0.01 or "1%".
        progress: True shows a bar on stderr; or a function, called with (what, done, total) as work goes on.

    Returns:
        What was measured. Gates that fail do not raise: see `Evaluation.require`.

    Raises:
        UsageError: what was asked for makes no sense.
        ModelError: a model cannot be loaded, does not run, or is none for the task.
        DataError: the data cannot be read, or do not fit the models.

    Example:
        >>> found = onnxfq.evaluate("model.int4.onnx", "model.onnx", text="test.txt", seq_len=128, samples=4,
        ...                         max_ppl_increase="20%")
        >>> found.require()["perplexity"].samples
        4
    """
    check_types(
        {"task": task, "text": text, "data": data, "tokenizer": tokenizer, "seq_len": seq_len, "samples": samples,
         "provider": provider, "threads": threads}, get_type_hints(evaluate),
    )  # fmt: skip
    gates = Gates.parse(
        {"max_ppl_increase": max_ppl_increase, "max_kl": max_kl, "min_cosine": min_cosine, "max_error": max_error,
         "max_drop": max_drop}
    )  # fmt: skip
    _check(task, gates, baseline, samples=samples, seq_len=seq_len, threads=threads)
    with ExitStack() as opened:
        source = find_model(opened.enter_context(on_disk(model)))
        original = None if baseline is None else find_model(opened.enter_context(on_disk(baseline, "baseline")))
        config = EvaluationConfig(
            source, original, _path(text), _path(data), find_tokenizer(_path(tokenizer), source, original), seq_len,
            samples, resolve_provider(provider), threads, opened.enter_context(following(progress)),
        )  # fmt: skip
        chosen = choose_task(task, config)
        gates.refuse_unmeasured(chosen.metrics(config), chosen.name)
        measured, outputs = chosen.run(config)
        metrics = without_unseen(measured, source, original)
    return Evaluation(
        model=model_name(model),
        baseline=None if baseline is None else model_name(baseline),
        task=chosen.name,
        provider=config.provider,
        metrics=tuple(metrics),
        outputs=tuple(outputs),
        gates=tuple(gates.check(metrics)),
        warnings=tuple(_warnings(chosen, config)),
        onnxfq_version=VERSION,
        runtime_version=runtime_version(),
        settings=config.as_json(),
    )


def _check(
    task: str, gates: Gates, baseline: AnyModel | None, *, samples: int | None, seq_len: int, threads: int | None
) -> None:
    check_task_name(task)
    for name, value in (("samples", samples), ("seq_len", seq_len), ("threads", threads)):
        if value is not None and value < 1:
            raise UsageError(f"`{name}` must be 1 or more (got {value}).")
    if gates.chosen and baseline is None:
        named = " and ".join(f"`{name}`" for name in gates.chosen)
        raise UsageError(f"{named} compares the model with another one. Name that with `baseline`.")


def _warnings(task: Task, config: EvaluationConfig) -> Iterator[str]:
    if config.baseline is None:
        yield "Compared with nothing: name the model before quantization with `baseline`."
    yield from task.notes


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
