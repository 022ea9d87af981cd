"""Encoder–decoder models: how near what they write is to what people wrote, by sacrebleu."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnxfq.errors import DataError, UsageError
from onnxfq.evaluation.evaluation_config import EvaluationConfig
from onnxfq.evaluation.tasks.task import Task, TaskResult
from onnxfq.feeds import Column, read_records
from onnxfq.feeds.records import Record
from onnxfq.feeds.records import text as text_of
from onnxfq.metrics.metric import Metric, mean_metric

COLUMNS = (
    Column("source", ("src", "input", "text", "document", "article")),
    Column("target", ("tgt", "reference", "references", "translation", "summary", "highlights")),
)
BLEU, CHRF = (Metric(name, None, higher_is_better=True) for name in ("bleu", "chrf"))
SAME_TEXT = Metric("same_text", None)


def evaluate_generation(config: EvaluationConfig) -> TaskResult:
    """BLEU and chrF of greedily written texts, and how many are the baseline's word for word.

    Args:
        config: with `source` and `target` (a text, or a list of them) in a .jsonl, .csv or .tsv file.

    Returns:
        "bleu", "chrf" and, with a baseline, "same_text".

    Raises:
        DataError: the texts cannot be read, or do not fit the model.
        ModelError: a model does not run.
        UsageError: sacrebleu is not installed.
    """
    model, baseline = config.load_encoder_decoders()
    _refuse_missing_sacrebleu()
    path, tell = config.data_file, config.tell("generation")
    records = list(read_records(path, COLUMNS, samples=config.samples))
    if not records:
        raise DataError(f"There are no texts in {path}. Give a file that holds at least one.")
    translators = [translator for translator in (model, baseline) if translator is not None]
    written: list[list[str]] = [[] for _ in translators]
    references = [_references(record, where) for record, where in records]
    for number, (record, where) in enumerate(records, start=1):
        source = text_of(record, "source", where)
        for texts, translator in zip(written, translators, strict=True):
            texts.append(translator.write(source, where))
        tell(number, len(records))
    metrics = score(written[0], references)
    if baseline is None:
        return metrics, []
    before = score(written[1], references)
    same = [float(one == other) for one, other in zip(*written, strict=True)]
    return [*(_beside(m, b) for m, b in zip(metrics, before, strict=True)), mean_metric(SAME_TEXT, same)], []


def score(texts: Sequence[str], references: Sequence[Sequence[str]]) -> list[Metric]:
    """BLEU and chrF of a corpus, each with sacrebleu's signature as its note.

    Args:
        texts: what was written.
        references: for each text what it should have been, one or several.
    """
    import sacrebleu.metrics

    longest = max(len(several) for several in references)
    streams = [[several[i] if i < len(several) else None for several in references] for i in range(longest)]
    metrics = []
    for metric, scorer in ((BLEU, sacrebleu.metrics.BLEU()), (CHRF, sacrebleu.metrics.CHRF())):
        value = float(scorer.corpus_score(list(texts), streams).score)
        note = f"sacrebleu {scorer.get_signature()}"
        metrics.append(replace(metric, value=value, samples=len(texts), note=note))
    return metrics


def _beside(metric: Metric, baseline: Metric) -> Metric:
    if metric.value is None or baseline.value is None:
        return metric
    return replace(metric, baseline=baseline.value, difference=metric.value - baseline.value)


def _references(record: Record, where: str) -> list[str]:
    target = record["target"]
    several = target if isinstance(target, list) and target else [target]
    return [text_of({"target": one}, "target", where) for one in several]


def _refuse_missing_sacrebleu() -> None:
    try:
        import sacrebleu  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "BLEU and chrF need the package sacrebleu. Install it with `pip install onnxfq[evaluate]`."
        ) from error


GENERATION = Task(
    name="generation",
    needs="texts with their references, with `data=FILE.jsonl`",
    takes="data",
    fits=lambda config, signature: signature is None,
    metrics=lambda config: (BLEU, CHRF, SAME_TEXT),
    run=evaluate_generation,
    folder=True,
    notes=("Texts were written greedily, without the beams that the model's configuration may ask for.",),
)
