"""More samples from few texts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from onnxfq.feeds import Feeds, spliced
from onnxfq.feeds.splices import ENOUGH_TO_KNOW
from onnxfq.signature import Signature, TensorSpec

NAMES = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
SIGNATURE = Signature(tuple(TensorSpec(name, "int64", ("batch", "tokens")) for name in NAMES), ())
START, END = 101, 102


def text(length: int, seed: int = 0) -> dict[str, Any]:
    ids = np.random.default_rng(seed).integers(1000, 2000, (1, length))
    ids[0, 0], ids[0, -1] = START, END
    return dict(zip(NAMES, (ids, np.ones_like(ids), np.zeros_like(ids), np.arange(length)[None]), strict=True))


def texts(count: int, length: int = 12) -> Feeds:
    return Feeds(tuple(text(length + seed % 5, seed) for seed in range(count)), "given")


def test_splices_begin_like_one_text_and_end_like_another() -> None:
    feeds = texts(40)
    found = spliced(feeds, SIGNATURE)
    assert len(found) == 4 * len(feeds)
    assert list(found[: len(feeds)]) == list(feeds)
    known = [feed["input_ids"][0].tolist() for feed in feeds]
    for feed in found[len(feeds) :]:
        ids = feed["input_ids"][0].tolist()
        assert (ids[0], ids[-1]) == (START, END)
        assert 2 <= len(ids) <= 16
        cuts = range(1, len(ids))
        assert any(
            any(ids[:cut] == one[:cut] for one in known) and any(ids[cut:] == one[cut - len(ids) :] for one in known)
            for cut in cuts
        )
        assert feed["position_ids"][0].tolist() == list(range(len(ids)))
        assert feed["attention_mask"].tolist() == [[1] * len(ids)]
        assert feed["token_type_ids"].tolist() == [[0] * len(ids)]
        assert {array.dtype for array in feed.values()} == {np.dtype(np.int64)}


def test_they_are_always_the_same_and_not_made_of_what_is_held_back() -> None:
    feeds, held = texts(40), frozenset({0, 7})
    first, again = (spliced(feeds, SIGNATURE, held) for _ in range(2))
    assert all(np.array_equal(a["input_ids"], b["input_ids"]) for a, b in zip(first, again, strict=True))
    kept = {value for index in held for value in feeds[index]["input_ids"][0, 1:-1].tolist()}
    own = {value for index in set(range(40)) - held for value in feeds[index]["input_ids"][0].tolist()}
    made = {value for feed in first[len(feeds) :] for value in feed["input_ids"][0].tolist()}
    assert not made & (kept - own)


def test_many_texts_are_enough() -> None:
    assert sum(feed["input_ids"].size for feed in spliced(texts(2000, 20), SIGNATURE)) < ENOUGH_TO_KNOW + 2000 * 24
    assert len(spliced(texts(40, 1000), SIGNATURE)) == 40


@pytest.mark.parametrize("odd", ["few", "long", "made up", "masked", "segments", "fixed", "float", "1d"])
def test_whatever_is_not_one_text_of_ids_stays_alone(odd: str) -> None:
    feeds, signature = list(texts(40)), SIGNATURE
    if odd == "long":
        feeds = list(texts(40, 80))
    if odd == "few":
        feeds = feeds[:31]
    for feed in feeds:
        if odd == "masked":
            feed["attention_mask"] = feed["attention_mask"] * (feed["position_ids"] < 5)
        if odd == "segments":
            feed["token_type_ids"] = feed["token_type_ids"] + (feed["position_ids"] > 5)
        if odd == "float":
            feed["pixels"] = np.ones((1, 3), np.float32)
        if odd == "1d":
            feed.update({name: array[0] for name, array in feed.items()})
    if odd == "float":
        signature = replace(signature, inputs=(*signature.inputs, TensorSpec("pixels", "float32", ("batch", 3))))
    if odd == "fixed":
        signature = replace(signature, inputs=tuple(replace(s, shape=("batch", 12)) for s in signature.inputs))
    given = Feeds(tuple(feeds), "given", odd == "made up")
    assert spliced(given, signature) is given
