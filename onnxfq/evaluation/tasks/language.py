"""Language models: their perplexity on running text, how far they are from a baseline, and the last words they find."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from onnxfq.arrays import Float64Array
from onnxfq.errors import ModelError
from onnxfq.evaluation.evaluated_model import EvaluatedModel
from onnxfq.evaluation.evaluation_config import EvaluationConfig
from onnxfq.evaluation.tasks.lambada import LAST_WORDS, evaluate_lambada
from onnxfq.evaluation.tasks.task import Task, TaskResult
from onnxfq.feeds import has_cache
from onnxfq.feeds.model_kind import language_output, recognize
from onnxfq.metrics.distributions import agreement, refuse_different_vocabularies
from onnxfq.metrics.metric import Metric, finite, mean_metric, trouble
from onnxfq.metrics.perplexity import PERPLEXITY, TokenLosses, full_windows, sees_change, sees_later_tokens
from onnxfq.metrics.perplexity_text import read_running_text
from onnxfq.signature import Signature

TRIED_TOKENS = 16
RARE = 0.999  # the quantile of KL that is reported beside its mean

KL, TOP1, KL_P999 = (Metric(name, None) for name in ("kl", "top1", "kl_p999"))


@dataclass
class _LanguageSums:
    """What has been measured, a number a window or a token; the logits themselves are forgotten."""

    losses: TokenLosses = field(default_factory=TokenLosses)
    kl: list[Float64Array] = field(default_factory=list)
    same: list[Float64Array] = field(default_factory=list)

    def add(self, model: EvaluatedModel, baseline: EvaluatedModel | None, ids: Sequence[int], where: str) -> None:
        """Run the models on a window."""
        logits = model.scores(ids, where)
        if baseline is None:
            self.losses.add(ids, logits)
            return
        expected = baseline.scores(ids, where)
        refuse_different_vocabularies(logits, expected)
        self.losses.add(ids, logits, expected)
        agreed = agreement(expected, logits)
        self.kl.append(agreed.kl)
        self.same.append(agreed.same)

    def metrics(self) -> Iterator[Metric]:
        """Means over windows, and a quantile over tokens."""
        yield self.losses.perplexity()
        if self.kl:
            yield mean_metric(KL, [float(kl.mean()) for kl in self.kl])
            tokens = np.concatenate(self.kl)
            yield Metric(KL_P999.name, _quantile(tokens), samples=len(tokens), note=trouble(tokens))
            yield mean_metric(TOP1, [float(same.mean()) for same in self.same])


def evaluate_language(config: EvaluationConfig) -> TaskResult:
    """Perplexity and agreement with the baseline on running text, last words of passages, or both.

    Args:
        config: with running text, passages, or both.

    Returns:
        What `evaluate_perplexity` measures of the text, then what `evaluate_lambada` measures of the passages.

    Raises:
        DataError: the text or the passages cannot be read, or do not fit the model.
        ModelError: a model does not run, or sees the tokens that it should predict.
    """
    model, baseline = config.load_models(language_output)
    metrics: list[Metric] = []
    if config.text is not None:
        metrics += evaluate_perplexity(config, config.text, model, baseline)
    if config.data is not None:
        metrics += evaluate_lambada(config, config.data, model, baseline)
    return metrics, []


def evaluate_perplexity(
    config: EvaluationConfig, path: Path, model: EvaluatedModel, baseline: EvaluatedModel | None
) -> list[Metric]:
    """Perplexity on a text, and KL and top-1 agreement with the baseline.

    The whole text is encoded once and cut into full windows. Of each window of T tokens, the perplexity counts the
    T−1 that have one before them, KL and top-1 count all T.

    Source: E. Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
    2022, whose evaluation of WikiText-2 this is.

    Args:
        config: says how many windows to use.
        path: the text.
        model: the language model.
        baseline: what it is compared with, window by window.

    Returns:
        "perplexity" and, with a baseline, "kl", "kl_p999" and "top1".

    Raises:
        DataError: the text cannot be read, has no full window, or does not fit the model.
        ModelError: a model does not run, or sees the tokens that it should predict.
    """
    text, tell = read_running_text(path), config.tell("perplexity")
    length = min(model.text.length for model in (model, baseline) if model is not None)
    windows = full_windows(model.text.ids(text), length)[: config.samples]
    _refuse_looking_ahead(baseline or model, windows[0])
    sums = _LanguageSums()
    for number, ids in enumerate(windows, start=1):
        sums.add(model, baseline, ids, f"window {number} of {path.name}")
        tell(number, len(windows))
    return list(sums.metrics())


def _refuse_looking_ahead(model: EvaluatedModel, ids: Sequence[int]) -> None:
    """A model with a cache of earlier tokens cannot see later ones; others are tried out."""
    if not has_cache(model.signature) and _looks_ahead(model, ids):
        raise ModelError(f'{sees_later_tokens(model.session.name)} Evaluate it with `task="outputs"`.')


def _looks_ahead(model: EvaluatedModel, ids: Sequence[int]) -> bool:
    """Whether the scores of a token depend on the token after it: tried out by changing the last of some tokens."""
    shown = list(ids[:TRIED_TOKENS])
    changed = [*shown[:-1], shown[0] if shown[0] != shown[-1] else (shown[-1] + 1) % (max(shown) + 1)]
    before, after = (model.scores(tokens, "the text").astype(np.float64)[-2:] for tokens in (shown, changed))
    return sees_change(before, after)


def _quantile(values: Float64Array) -> float | None:
    """The 99.9th percentile; None where not all values are numbers."""
    if np.isnan(values).any():
        return None
    with np.errstate(invalid="ignore"):  # between two infinities
        return finite(float(np.quantile(values, RARE)))


def _fits(config: EvaluationConfig, signature: Signature | None) -> bool:
    if signature is None or recognize(signature) != "language":
        return False
    return config.text is not None or config.data is None or config.has_table


def _metrics(config: EvaluationConfig) -> list[Metric]:
    on_text = [PERPLEXITY, KL, TOP1, KL_P999] if config.text is not None else []
    return [*on_text, *LAST_WORDS] if config.data is not None else on_text


LANGUAGE = Task(
    name="language",
    needs="running text with `text=FILE.txt` for its perplexity, passages with `data=FILE.jsonl` for LAMBADA",
    takes="data and text",
    fits=_fits,
    metrics=_metrics,
    run=evaluate_language,
)
