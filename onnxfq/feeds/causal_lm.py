"""Whether a model continues text, and with which inputs and outputs: told from names and shapes, or by trying."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Array
from onnxfq.feeds.feed import Feed
from onnxfq.feeds.generate import element_type, fill
from onnxfq.feeds.names import is_float, role, stem, takes_token_ids
from onnxfq.feeds.shapes import ring_length
from onnxfq.session import Session
from onnxfq.signature import Signature, TensorSpec

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

BYTES_AT_ONCE = 2**29  # of cached keys and values, or of logits; a constant, so that it cannot change the text
TRIED_TOKENS = 8
_FAMILY = re.compile(r"key_?values?")  # in "past_key_values.0.key", which is the key 0
_DIRECTIONS = frozenset({"past", "present", "cache", "cached", "new", "updated", "in", "out", "input", "output"})


@dataclass(frozen=True, slots=True)
class CausalLM:
    """A language model and what it writes with.

    Attributes:
        session: runs it.
        signature: its inputs, with the vocabulary where it is known.
        ids: its input of token ids, [batch, tokens].
        logits: its output [batch, tokens, vocabulary].
        vocabulary: how many ids both know.
        cache: for each input of cached keys and values the output that continues it; empty: whole texts are fed.
    """

    session: Session
    signature: Signature
    ids: TensorSpec
    logits: str
    vocabulary: int
    cache: Mapping[str, str]

    def prompt(self, text: Ids, cache: Mapping[str, Array] | None = None) -> Feed:
        """All inputs for new tokens [batch, tokens] after those in the cache."""
        new = text.astype(element_type(self.ids))
        return fill({self.ids.name: new, **(cache or {})}, self.signature)

    def scores(self, text: Ids, cache: Mapping[str, Array]) -> tuple[Floats, dict[str, Array]]:
        """Run once.

        Returns:
            The logits of every new token, [batch, tokens, vocabulary], and the cache that holds these too.
        """
        found = self.session.run(self.prompt(text, cache), [self.logits, *self.cache.values()])
        logits = found[self.logits][..., : self.vocabulary].astype(np.float32)
        return logits, {past: found[present] for past, present in self.cache.items()}

    def texts_at_once(self, tokens: int) -> int:
        """How many texts of so many tokens to write at once."""
        caches = [spec for spec in self.signature.inputs if spec.name in self.cache]
        shapes = [spec.shape or () for spec in caches]
        if isinstance((self.ids.shape or (None,))[0], int) or any(_has_fixed_batch(spec) for spec in caches):
            return 1
        sizes = [math.prod(size for size in shape if isinstance(size, int)) for shape in shapes]
        bytes_per_token = 4 * (sum(sizes) if caches else self.vocabulary)
        return max(1, BYTES_AT_ONCE // (bytes_per_token * tokens))


def find_causal_lm(session: Session, signature: Signature) -> CausalLM | None:
    """The model as one that continues text; None where it does not, or in no way known here.

    Args:
        session: the model.
        signature: its inputs, with the vocabulary where it is known.
    """
    data = [spec for spec in signature.inputs if role(spec) == "data"]
    caches = [spec for spec in signature.inputs if role(spec) == "cache"]
    if len(data) != 1 or not _takes_any_text(data[0]) or any(_has_fixed_length(spec) for spec in caches):
        return None
    logits = _find_logits(session.signature(), data[0].vocabulary)
    if logits is None:
        return None
    writer = CausalLM(session, signature, data[0], *logits, _pairs(caches, session.signature()))
    return writer if writer.cache or _looks_back_only(writer) else None


def _takes_any_text(spec: TensorSpec) -> bool:
    """Whether an input takes token ids [batch, tokens], of any length, and one text at once or any number."""
    if not takes_token_ids(spec) or spec.shape is None or len(spec.shape) != 2:
        return False
    batch, tokens = spec.shape
    return not isinstance(tokens, int) and (batch == 1 or not isinstance(batch, int))


def _has_fixed_length(cache: TensorSpec) -> bool:
    return cache.shape is None or isinstance(cache.shape[-2], int)


def _has_fixed_batch(cache: TensorSpec) -> bool:
    return all(isinstance(size, int) for size in (cache.shape or ())[:-2])


def _find_logits(signature: Signature, vocabulary: int | None) -> tuple[str, int] | None:
    """The output that scores the next token, and how many ids it and the input both know."""
    for spec in signature.outputs:
        if not is_float(spec) or spec.shape is None or len(spec.shape) != 3:
            continue
        known = [size for size in (spec.shape[2], vocabulary) if isinstance(size, int)]
        if known and (stem(spec.name) == "logits" or spec.shape[2] == vocabulary):
            return spec.name, min(known)
    return None


def _pairs(caches: list[TensorSpec], signature: Signature) -> dict[str, str]:
    """For each input of the cache the output that continues it; empty where one has none, or none tells the length."""
    if caches and all(ring_length(spec) is not None for spec in caches):
        return {}
    continued = {slot(spec.name): spec.name for spec in signature.outputs}
    slots = {spec.name: slot(spec.name) for spec in caches}
    known = set(slots.values()) <= set(continued) and len(set(slots.values())) == len(slots)
    return {name: continued[slot] for name, slot in slots.items()} if known else {}


def slot(name: str) -> tuple[str, ...]:
    """What `past_key_values.0.key` and `present.0.key` have in common: ("0", "key")."""
    words = re.findall(r"[a-z]+|\d+", _FAMILY.sub(" ", stem(name)))
    return tuple(word for word in words if word not in _DIRECTIONS)


def _looks_back_only(writer: CausalLM) -> bool:
    """Whether a token's scores stay the same when a later token changes; those of a masked language model do not."""
    text = np.arange(TRIED_TOKENS)[np.newaxis] % writer.vocabulary
    changed = text.copy()
    changed[0, -1] = (changed[0, -1] + 1) % writer.vocabulary
    before, after = (writer.scores(ids, {})[0][:, :-1] for ids in (text, changed))
    if before.shape[1] != TRIED_TOKENS - 1:
        return False
    largest = float(np.abs(before[np.isfinite(before)]).max(initial=0))
    return np.allclose(before, after, rtol=0, atol=1e-3 * largest, equal_nan=True)
