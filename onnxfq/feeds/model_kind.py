"""What a model is for, told from its inputs and outputs, and which output answers."""

from __future__ import annotations

from typing import Literal

from onnxfq.errors import ModelError
from onnxfq.feeds import is_float, role, stem, takes_token_ids
from onnxfq.signature import Signature, TensorSpec

ModelKind = Literal["language", "sentences", "classifier", "other"]

_LOGITS = frozenset({"logits", "scores", "score", "lm_logits"})
_SENTENCE = ("sentence_embedding", "sentence_embeddings", "text_embeds")
_TOKENS = ("last_hidden_state", "token_embeddings", "hidden_states", "encoder_hidden_states")


def recognize(signature: Signature) -> ModelKind:
    """What a model is for; "other" where nothing tells.

    A language model takes token ids and answers each with scores for about as many tokens as it knows; a model that
    answers each with few is one that labels tokens, which is "other".
    """
    if any(_scores_tokens(spec, signature) for spec in signature.outputs):
        return "language"
    if any(_scores_classes(spec) for spec in signature.outputs):
        return "classifier"
    return "sentences" if _takes_text(signature) and _embedding(signature) else "other"


def language_output(signature: Signature) -> str:
    """The output [batch, tokens, vocabulary] of a language model.

    Raises:
        ModelError: there is none.
    """
    name = find_language_output(signature)
    if name is None:
        raise ModelError(
            "The model does not suit this task: perplexity needs an output `logits` [batch, tokens, "
            f'vocabulary] (got {_listed(signature)}). Evaluate it with `task="outputs"`.'
        )
    return name


def find_language_output(signature: Signature) -> str | None:
    """The output [batch, tokens, vocabulary] of a language model; None where the model is none."""
    fitting = (s for s in signature.outputs if _scores_tokens(s, signature) or (_named_logits(s) and _has_rank(s, 3)))
    return next((spec.name for spec in fitting if _takes_text(signature)), None)


def embedding_output(signature: Signature) -> str:
    """The output that holds a sentence, or its tokens to be averaged.

    Raises:
        ModelError: there is none.
    """
    name = _embedding(signature)
    if name is None:
        raise ModelError(
            "The model embeds no sentences: sts needs an output `last_hidden_state` [batch, tokens, features] or "
            f'`sentence_embedding` [batch, features] (got {_listed(signature)}). Evaluate it with `task="outputs"`.'
        )
    return name


def class_output(signature: Signature) -> str:
    """The output [batch, classes] of a classifier: `logits`, or the only one of this shape.

    Raises:
        ModelError: there is none, or several.
    """
    matrices = [spec for spec in signature.outputs if is_float(spec) and _has_rank(spec, 2)]
    named = [spec for spec in matrices if _named_logits(spec)]
    if len(named or matrices) == 1:
        return (named or matrices)[0].name
    raise ModelError(
        f"The model scores no classes: classification needs one output `logits` [batch, classes] (got "
        f'{_listed(signature)}). Evaluate it with `task="outputs"`.'
    )


def _scores_tokens(spec: TensorSpec, signature: Signature) -> bool:
    """Whether an output scores, for each token, about as many tokens as the input knows."""
    if not is_float(spec) or not _has_rank(spec, 3) or not _takes_text(signature):
        return False
    vocabulary = max((i.vocabulary or 0 for i in signature.inputs if takes_token_ids(i)), default=0)
    width = spec.shape[2] if spec.shape else None
    if not isinstance(width, int) or not vocabulary:
        return _named_logits(spec) and not isinstance(width, int)
    return width == vocabulary or (_named_logits(spec) and 2 * width > vocabulary)


def _scores_classes(spec: TensorSpec) -> bool:
    return is_float(spec) and _named_logits(spec) and spec.shape is not None and len(spec.shape) == 2


def _embedding(signature: Signature) -> str | None:
    names = {stem(spec.name): spec.name for spec in signature.outputs if is_float(spec)}
    return next((names[name] for name in (*_SENTENCE, *_TOKENS) if name in names), None)


def _takes_text(signature: Signature) -> bool:
    return any(takes_token_ids(spec) for spec in signature.inputs if role(spec) == "data")


def _named_logits(spec: TensorSpec) -> bool:
    return stem(spec.name) in _LOGITS


def _has_rank(spec: TensorSpec, rank: int) -> bool:
    """Whether the rank is this one, or unknown."""
    return spec.shape is None or len(spec.shape) == rank


def _listed(signature: Signature) -> str:
    return "outputs " + ", ".join(spec.name for spec in signature.outputs)
