"""Samples that are the ids of one text, and nothing but what follows from these."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxfq.arrays import Array
from onnxfq.feeds.names import role, takes_token_ids
from onnxfq.signature import Signature, TensorSpec


def is_one_text(feed: Mapping[str, Array], signature: Signature) -> bool:
    """Whether a sample is one text of ids: whatever else it holds follows from how many these are."""
    specs = {spec.name: spec for spec in signature.inputs}
    ids = [feed[name] for name, spec in specs.items() if name in feed and takes_token_ids(spec)]
    if not ids or len(feed) < len(specs) or ids[0].ndim != 2 or len(ids[0]) != 1 or not ids[0].size:
        return False
    return all(_follows(specs[name], array, ids[0].shape) for name, array in feed.items())


def text_length(feed: Mapping[str, Array], signature: Signature) -> int:
    """Ids of the longest text of a sample, padding among them; 0 where it has none."""
    return max((feed[s.name].shape[-1] for s in signature.inputs if s.name in feed and takes_token_ids(s)), default=0)


def text_count(feed: Mapping[str, Array], signature: Signature) -> int:
    """How many texts of ids a sample is; 1 where it is none."""
    counts = [
        len(feed[s.name]) for s in signature.inputs if s.name in feed and takes_token_ids(s) and feed[s.name].ndim > 1
    ]
    return max(1, *counts) if len(set(counts)) == 1 else 1


def _follows(spec: TensorSpec, array: Array, shape: tuple[int, ...]) -> bool:
    """Whether an input is made of ids, or the same for all tokens of a text."""
    if not array.size:
        return role(spec) == "cache"
    if array.shape != shape or (spec.shape is not None and isinstance(spec.shape[-1], int)):
        return False
    if role(spec) == "position":
        return bool((array[0] == np.arange(shape[1])).all())
    return takes_token_ids(spec) or (role(spec) in ("mask", "zeros") and bool((array == array[0, 0]).all()))
