"""Which samples are held back from calibration, and how many tokens there are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxfq.feeds import Feeds, count_tokens, hold_out, with_held_out, without_copies
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
