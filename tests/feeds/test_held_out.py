"""Which samples are held back from calibration, and how many tokens there are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxfq.feeds import (
    MOST_TOKENS,
    Feed,
    Feeds,
    count_tokens,
    count_within,
    hold_out,
    hold_tokens,
    with_held_out,
    without_copies,
)
from onnxfq.feeds.sample_limits import up_to
from onnxfq.signature import Signature, TensorSpec


def numbered(count: int) -> Feeds:
    return Feeds(tuple({"x": np.array([index])} for index in range(count)), "given: numbers")


def numbers(feeds: Feeds | None) -> list[int]:
    return [] if feeds is None else [int(feed["x"][0]) for feed in feeds]


@pytest.mark.parametrize(
    ("read", "samples", "calibrate", "held"),
    [
        (8, 8, 8, 0),
        (31, 128, 31, 0),
        (32, 128, 24, 8),
        (32, 32, 24, 8),
        (64, 128, 56, 8),
        (128, 128, 112, 16),
        (130, 128, 114, 16),  # two alone would say nothing
        (136, 128, 128, 8),
        (160, 128, 128, 32),
        (12, 8, 8, 0),
        (16, 8, 8, 8),
        (40, 8, 8, 32),
    ],
)
def test_how_many_calibrate_and_how_many_are_held_back(read: int, samples: int, calibrate: int, held: int) -> None:
    kept, back = hold_out(numbered(read), samples)
    assert (len(kept), len(numbers(back))) == (calibrate, held)


@given(st.integers(1, 300), st.integers(1, 200))
def test_every_sample_is_on_one_side_and_no_fewer_calibrate_than_asked_for_where_there_are_more(
    there: int, samples: int
) -> None:
    feeds = numbered(min(there, with_held_out(samples)))
    kept, back = hold_out(feeds, samples)
    both = sorted([*numbers(kept), *numbers(back)])
    assert both == list(range(len(feeds) if back is not None else min(len(feeds), samples)))
    assert kept.origin == "given: numbers"
    assert len(kept) <= samples
    assert (back is not None) or len(feeds) < 32
    if len(feeds) >= samples + 8:
        assert numbers(kept) == list(range(samples))
    assert back is None or len(back) >= 8


def test_where_nothing_is_left_what_is_held_back_is_spread_over_all() -> None:
    _, back = hold_out(numbered(64), 64)
    assert numbers(back) == [4, 12, 20, 28, 36, 44, 52, 60]


def test_padding_is_no_token() -> None:
    ids = TensorSpec("input_ids", "int64", (None, None), vocabulary=9)
    mask = TensorSpec("attention_mask", "int64", (None, None))
    feed = {"input_ids": np.ones((1, 6), np.int64), "attention_mask": np.array([[1, 1, 1, 1, 0, 0]])}
    signature = Signature((ids, mask), ())
    assert count_tokens(Feeds((feed, {**feed, "attention_mask": np.ones((1, 6), np.int64)}), ""), signature) == 10
    assert count_tokens(numbered(3), Signature((TensorSpec("x", "float32", (None,)),), ())) is None


def test_copies_are_told_by_their_values() -> None:
    feeds = numbered(4)
    same = Feeds(({"x": np.array([2])}, {"x": np.array([2.0])}, {"x": np.array(["2"], object)}), "")
    assert [feed["x"].dtype.kind for feed in without_copies(same, feeds)] == ["f", "O"]
    assert numbers(without_copies(feeds, numbered(2))) == [2, 3]


IDS = TensorSpec("input_ids", "int64", ("batch", "sequence"))


def texts(*lengths: int) -> Feeds:
    return Feeds(tuple({"input_ids": np.ones((1, length), np.int64)} for length in lengths), "given: texts")


@pytest.mark.parametrize(
    ("lengths", "calibrate"),
    [
        ([15] * 3000, 1024),
        ([15] * 700, 700),
        ([512] * 300, 128),
        ([100] * 2000, 655),
        ([8192] * 300, 32),  # too few would leave nothing to hold back
        ([8192] * 3, 3),
    ],
)
def test_how_many_samples_calibrate_goes_by_their_tokens(lengths: list[int], calibrate: int) -> None:
    feeds, signature = texts(*lengths), Signature((IDS,), ())
    assert count_within(feeds, signature) == calibrate
    read = Feeds(tuple(up_to(feeds, signature, MOST_TOKENS * 5 // 4)), feeds.origin)
    assert count_within(read, signature) == calibrate
    kept, back = hold_out(read[: with_held_out(calibrate)], calibrate)
    assert (len(kept) == calibrate) is (len(lengths) > calibrate + 8 or len(lengths) < 32)
    assert len(lengths) < 32 or 8 <= len(numbers_of(back)) <= 128


def numbers_of(feeds: Feeds | None) -> list[int]:
    return [feed["input_ids"].size for feed in feeds or ()]


def test_images_and_states_count_as_many_tokens() -> None:
    image = TensorSpec("pixel_values", "float32", ("batch", 3, "height", "width"))
    pixels: Feed = {"pixel_values": np.zeros((1, 3, 2, 2), np.float32)}
    images = Feeds((pixels,) * 300, "given: images")
    assert count_within(images, Signature((image,), ())) == 128
    states = TensorSpec("encoder_hidden_states", "float32", ("batch", "frames", 4))
    heard: Feed = {"input_ids": np.ones((1, 5), np.int64), "encoder_hidden_states": np.zeros((1, 9, 4), np.float32)}
    assert count_within(Feeds((heard,) * 300, "given: sound"), Signature((IDS, states), ())) == 128


@pytest.mark.parametrize(("count", "kept"), [(1, 0), (15, 0), (16, 2), (31, 2), (32, 4), (400, 25), (5000, 64)])
def test_settings_are_chosen_on_a_few_samples_spread_over_all(count: int, kept: int) -> None:
    found = sorted(hold_tokens(count))
    assert len(found) == kept
    assert all(0 <= index < count for index in found)
    assert not kept or max(np.diff([-1, *found, count])) <= 1.6 * count / kept
