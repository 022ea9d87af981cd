"""Language models for lm-eval, the evaluation harness: its tasks, run on an ONNX file.

    import lm_eval
    from onnxfq.harness import OnnxModel

    lm_eval.simple_evaluate(model=OnnxModel("model.int4.onnx"), tasks=["hellaswag"])

Needs `pip install onnxfq[lm-eval]`. Importing this module registers the model as "onnxfq" with lm-eval.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxfq.arrays import Array
from onnxfq.errors import DataError, ModelError, UsageError
from onnxfq.evaluation.evaluated_model import EvaluatedModel
from onnxfq.evaluation.evaluation_config import EvaluationConfig, find_tokenizer
from onnxfq.feeds import CausalLM, find_causal_lm, read_setting
from onnxfq.feeds.model_kind import language_output
from onnxfq.metrics.distributions import guesses
from onnxfq.model_files import find_model
from onnxfq.progress import silent
from onnxfq.session import resolve_provider

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise UsageError("This needs the package lm-eval. Install it with `pip install onnxfq[lm-eval]`.") from error

UNLIMITED = 2048  # tokens, where nothing says how many the model takes


@register_model("onnxfq")  # type: ignore[misc, untyped-decorator, unused-ignore]
class OnnxModel(TemplateLM):  # type: ignore[misc, unused-ignore]
    """A language model in an ONNX file, as lm-eval wants it.

    Args:
        pretrained: the file, or a folder that holds it.
        tokenizer: the folder of tokenizer.json; None looks beside the model.
        max_length: longest input, in tokens, within what the model takes.
        max_gen_toks: new tokens at most, where a task does not say.
        provider: "auto", "cpu" or "cuda".
        threads: threads inside an operator; None leaves the choice to ONNX Runtime.
        batch_size: taken because lm-eval gives it to every model; requests are run one by one.
        max_batch_size: as `batch_size`.
        device: as `batch_size`; `provider` says where the model runs.

    Raises:
        ModelError: the model cannot be loaded, or is no language model.
        UsageError: nothing says which token ends a text.
    """

    backend = "causal"

    def __init__(
        self,
        pretrained: str | Path,
        tokenizer: str | Path | None = None,
        *,
        max_length: int = UNLIMITED,
        max_gen_toks: int = 256,
        provider: str = "auto",
        threads: int | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | str | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        model = find_model(Path(pretrained))
        folder = find_tokenizer(None if tokenizer is None else Path(tokenizer), model, None)
        config = EvaluationConfig(
            model, None, None, None, folder, max_length, None, resolve_provider(provider), threads, silent
        )
        self.subject: EvaluatedModel = config.load_models(language_output)[0]
        self.max_length = self.subject.text.length
        self.max_gen_toks = max_gen_toks
        self.tokenizer = self.subject.text.tokenizer
        self._end = _token(folder, "eos_token_id")
        self._start = _token(folder, "bos_token_id")
        if self._end is None:
            raise UsageError(
                f"Nothing in '{folder}' says which token ends a text (wanted eos_token_id in config.json). Copy the "
                "original's configuration there."
            )
        self._writer: CausalLM | None = find_causal_lm(self.subject.session, self.subject.signature)

    @property
    def eot_token_id(self) -> int | None:
        """The token that ends a text."""
        return self._end

    @property
    def prefix_token_id(self) -> int | None:
        """The token before a text that has nothing before it."""
        return self._end if self._start is None else self._start

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: object) -> list[int]:
        """Ids of a text, with the tokenizer's own special tokens unless told otherwise."""
        self.tokenizer.no_truncation()
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens is not False).ids)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: object
    ) -> list[tuple[float, bool]]:
        return [self._score(context, continuation) for _, context, continuation in requests]

    def _score(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        """Log probability of a continuation, and whether greedy decoding writes it; what is too long loses its start.

        Raises:
            DataError: the continuation is longer than the model takes.
        """
        if len(continuation) > self.max_length:
            raise DataError(
                f"A continuation is longer than the model takes (got {len(continuation)} tokens, at most "
                f"{self.max_length}). Leave the task out, or raise max_length where the model allows it."
            )
        read = [*context, *continuation][-self.max_length - 1 : -1]
        rows = self.subject.scores([*read], "a request")[-len(continuation) :]
        if max(continuation) >= rows.shape[1]:
            raise DataError(
                f"The tokenizer knows tokens that the model does not score (got id {max(continuation)} and "
                f"{rows.shape[1]} scores). Give the model's own tokenizer."
            )
        guessed = guesses(rows, continuation)
        self._refuse_nan(guessed.loss)
        return -float(guessed.loss.sum()), bool(guessed.hit.all())

    def loglikelihood_rolling(self, requests: Iterable[Any], disable_tqdm: bool = False) -> list[float]:
        """Log probability of each whole text, in windows that lie side by side."""
        found = []
        for request in requests:
            ids = self.tok_encode(request.args[0])
            windows = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, 1)
            pairs = [make_disjoint_window(window) for window in windows]
            found.append(sum(self._score(context, continuation)[0] for context, continuation in pairs))
        return found

    def generate_until(self, requests: Iterable[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations, each as far as the first of its stopping texts.

        Raises:
            UsageError: a task asks for sampling.
        """
        return [self._continue(*request.args) for request in requests]

    def _continue(self, context: str, settings: dict[str, Any]) -> str:
        if settings.get("do_sample") or settings.get("num_beams", 1) != 1:
            raise UsageError(f"Texts are written greedily only (got {settings}). Set do_sample: false in the task.")
        until = settings.get("until") or []
        stops = [until] if isinstance(until, str) else list(until)
        longest = min(int(settings.get("max_gen_toks", self.max_gen_toks)), self.max_length - 1)
        ids = self.tok_encode(context)[-(self.max_length - longest) :] or [self.prefix_token_id or 0]
        cache: dict[str, Any] = {}
        written: list[int] = []
        while len(written) < longest:
            token, cache = self._next(ids, written, cache)
            if token == self._end:
                break
            written.append(token)
            text = str(self.tokenizer.decode(written, skip_special_tokens=True))
            if any(stop in text for stop in stops):
                break
        text = str(self.tokenizer.decode(written, skip_special_tokens=True))
        for stop in stops:
            text = text.split(stop, 1)[0]
        return text

    def _next(self, ids: list[int], written: list[int], cache: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """The likeliest next token, and the cache that holds all before it where the model has one."""
        if self._writer is None or not self._writer.cache:
            scores = self.subject.scores([*ids, *written], "a request")[-1]
        else:
            new = written[-1:] if cache else ids
            logits, cache = self._writer.scores(np.array([new], np.int64), cache)
            scores = logits[0, -1]
        self._refuse_nan(scores)
        return int(scores.argmax()), cache

    def _refuse_nan(self, values: Array) -> None:
        if np.isnan(values).any():
            raise ModelError(
                f"The scores of {self.subject.session.name} are NaN or infinite. The model is broken: quantize it with "
                "other settings, or leave out the nodes that overflow."
            )


def _token(folder: Path, key: str) -> int | None:
    """A token that a configuration names, the first where it names several."""
    for file in ("generation_config.json", "config.json"):
        value = read_setting(folder, file, key)
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, int):
            return first
    return None
