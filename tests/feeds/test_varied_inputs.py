"""Which made-up inputs there are in another way that is usual, and what that is."""

from __future__ import annotations

import pytest

from onnxfq.feeds import Feeds, generate, usual_variants
from onnxfq.signature import Signature, TensorSpec

IMAGE = TensorSpec("image", "float32", (1, 3, 16, 16))
STORED = TensorSpec("image", "uint8", (1, 3, 16, 16))
NOISE = TensorSpec("noise", "float32", (1, 3, 16, 16))
MASK = TensorSpec("src_mask", "bool", (1, 4))
X = TensorSpec("x", "float32", (1, 4))


def variants(*inputs: TensorSpec) -> tuple[Feeds, list[tuple[Feeds, str]]]:
    signature = Signature(inputs, ())
    feeds = generate(signature, samples=2, seq_len=8, seed=0)
    return feeds, list(usual_variants(feeds, signature))


@pytest.mark.parametrize("inputs", [(X,), (STORED,), (NOISE,)])
def test_where_nothing_is_left_open_there_are_none(inputs: tuple[TensorSpec, ...]) -> None:
    assert variants(*inputs)[1] == []


def test_masks_are_turned_round_and_images_stored_one_at_a_time() -> None:
    feeds, [(masked, of_masks), (stored, of_images)] = variants(IMAGE, MASK, X)
    assert ("src_mask" in of_masks, "image" in of_images) == (True, True)
    for given, other, image in zip(feeds, masked, stored, strict=True):
        assert given["src_mask"].all()
        assert not other["src_mask"].any()
        assert (other["image"] == given["image"]).all()
        assert (image["src_mask"] == given["src_mask"]).all()
        assert 0 <= image["image"].min() < 100 < image["image"].max() <= 255.01
        assert (image["x"] == given["x"]).all()
