"""Made-up inputs in the other way that is usual, where those made up first show nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from onnxfq.arrays import Array
from onnxfq.errors import DataError
from onnxfq.feeds import Feed, generate
from onnxfq.quantization.telling_inputs import telling_inputs
from onnxfq.signature import Signature, TensorSpec

IMAGE = TensorSpec("image", "float32", (1, 3, 16, 16))
MASK = TensorSpec("src_mask", "bool", (1, 4))
X = TensorSpec("x", "float32", (1, 4))


def wide(feed: Feed) -> dict[str, Array]:
    """Of images from 0 to 255 alone, outputs differ."""
    return {"y": 1000 + np.maximum(feed["image"] - 20, 0)}


def masked(feed: Feed) -> dict[str, Array]:
    return {"y": np.where(feed["src_mask"], 1.0, feed["x"])}


def refuses(feed: Feed) -> dict[str, Array]:
    if not feed["src_mask"].all():
        raise DataError("no")
    return {"y": np.ones(4)}


@pytest.mark.parametrize(
    ("inputs", "run", "told"),
    [
        ((IMAGE,), wide, "MADE UP: on normalized images all outputs are alike; image was made up from 0 to 255."),
        ((IMAGE,), lambda feed: {"y": feed["image"]}, ""),
        ((IMAGE,), lambda feed: {"y": np.ones(4)}, ""),
        ((X, MASK), masked, "MADE UP: with True in src_mask all outputs are alike"),
        ((X, MASK), lambda feed: {"y": np.where(feed["src_mask"], feed["x"], 1.0)}, ""),
        ((X, MASK), refuses, ""),
        ((X,), lambda feed: {"y": np.ones(4)}, ""),
    ],
)
def test_what_shows_more_is_taken_and_told(
    inputs: tuple[TensorSpec, ...], run: Callable[[Feed], dict[str, Array]], told: str
) -> None:
    signature = Signature(inputs, ())
    feeds = generate(signature, samples=4, seq_len=8, seed=0)
    found, words = telling_inputs(feeds, signature, run)
    assert words.startswith(told)
    assert (words == "") == (told == "") == (found is feeds)
    assert (found.is_generated, found.origin, len(found)) == (True, "generated", 4)
    for feed, given in zip(found, feeds, strict=True):
        assert {name: array.dtype for name, array in feed.items()} == {n: a.dtype for n, a in given.items()}
