"""Encoder–decoder models: how near what they write is to what people wrote, by sacrebleu."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from onnxfq.errors import DataError, UsageError
from onnxfq.evaluation.encoder_decoder import EncoderDecoder
from onnxfq.feeds import Column, read_records
from onnxfq.feeds.records import Record
from onnxfq.feeds.records import text as text_of
from onnxfq.metrics.metric import Metric, mean_metric
from onnxfq.metrics.perplexity import Told

COLUMNS = (
    Column("source", ("src", "input", "text", "document", "article")),
    Column("target", ("tgt", "reference", "references", "translation", "summary", "highlights")),
)


def evaluate_generation(
    model: EncoderDecoder, baseline: EncoderDecoder | None, path: Path, *, samples: int | None, tell: Told
) -> list[Metric]:
    """BLEU and chrF of greedily written texts, and how many are the baseline's word for word.

    Args:
        model: the encoder–decoder.
        baseline: what it is compared with, text by text.
        path: `source` and `target` (a text, or a list of them) in a .jsonl, .csv or .tsv file.
        samples: how many at most, the first ones; None for all.
        tell: called with how many are done, and how many there are.

    Returns:
        Figures "bleu", "chrf" and, with a baseline, "same_text".

    Raises:
        DataError: the texts cannot be read, or do not fit the model.
        ModelError: a model does not run.
        UsageError: sacrebleu is not installed.
    """
    _refuse_missing_sacrebleu()
    records = list(read_records(path, COLUMNS, samples=samples))
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
    figures = score(written[0], references)
    if baseline is None:
        return figures
    before = score(written[1], references)
    same = [float(one == other) for one, other in zip(*written, strict=True)]
    return [*(_beside(f, b) for f, b in zip(figures, before, strict=True)), mean_metric("same_text", same)]


def score(texts: Sequence[str], references: Sequence[Sequence[str]]) -> list[Metric]:
    """BLEU and chrF of a corpus, each with sacrebleu's signature as its note.

    Args:
        texts: what was written.
        references: for each text what it should have been, one or several.
    """
    from sacrebleu.metrics import BLEU, CHRF

    longest = max(len(several) for several in references)
    streams = [[several[i] if i < len(several) else None for several in references] for i in range(longest)]
    figures = []
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        value = float(metric.corpus_score(list(texts), streams).score)
        figures.append(Metric(name, value, samples=len(texts), note=f"sacrebleu {metric.get_signature()}"))
    return figures


def _beside(figure: Metric, baseline: Metric) -> Metric:
    if figure.value is None or baseline.value is None:
        return figure
    return replace(figure, baseline=baseline.value, difference=figure.value - baseline.value)


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
