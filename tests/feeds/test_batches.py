"""Texts of one length put together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from onnxfq.calibration.sample_batches import are_rows_of
from onnxfq.feeds import Feeds, alone, batched
from onnxfq.signature import Signature, TensorSpec

NAMES = ("input_ids", "attention_mask")
SIGNATURE = Signature(tuple(TensorSpec(name, "int64", ("batch", "tokens")) for name in NAMES), ())


def text(length: int, seed: int = 0) -> dict[str, Any]:
    ids = np.random.default_rng(seed).integers(0, 1000, (1, length))
    return dict(zip(NAMES, (ids, np.ones_like(ids)), strict=True))


def feeds(*lengths: int) -> Feeds:
    return Feeds(tuple(text(length, seed) for seed, length in enumerate(lengths)), "given")


def test_texts_of_one_length_are_rows_of_a_batch() -> None:
    given = feeds(*[8, 11, 8, 9] * 50)
    found = batched(given, SIGNATURE, without={2})
    assert sorted(index for members in found.members for index in members) == list(range(200))
    assert found.holding({2}) == frozenset({found.members.index((2,))})
    for feed, members in zip(found.feeds, found.members, strict=True):
        for name in NAMES:
            np.testing.assert_array_equal(feed[name], np.concatenate([given[index][name] for index in members]))
    sizes = [feed["input_ids"].size for feed in found.feeds]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 512  # 64 texts of 8 tokens
    assert len(found.feeds) == 2 + 1 + 2 + 1  # of 8, of 11, of 9, and the one that stays alone


def test_long_texts_stay_alone() -> None:
    given = feeds(65, 64, 65, 64)
    assert batched(given, SIGNATURE).members == ((1, 3), (0,), (2,))


def test_a_cache_without_tokens_gets_a_row_for_each_text() -> None:
    cache = TensorSpec("past_key_values.0.key", "float32", ("batch", 2, "past_sequence", 4))
    given = [{**text(5, seed), cache.name: np.zeros((1, 2, 0, 4), np.float32)} for seed in range(3)]
    (feed,) = batched(Feeds(tuple(given), "given"), replace(SIGNATURE, inputs=(*SIGNATURE.inputs, cache))).feeds
    assert feed[cache.name].shape == (3, 2, 0, 4)
    assert feed["input_ids"].shape == (3, 5)


@pytest.mark.parametrize("first", [1, None])
def test_models_that_take_no_batches(first: int | None) -> None:
    shape = None if first is None else (first, "tokens")
    fixed = replace(SIGNATURE, inputs=(SIGNATURE.inputs[0], TensorSpec(NAMES[1], "int64", shape)))
    given = feeds(7, 7)
    found = batched(given, fixed)
    assert found.feeds is given
    assert found.members == ((0,), (1,))


def test_what_is_more_than_one_text_stays_alone_in_its_order() -> None:
    padded = text(7)
    padded["attention_mask"][0, 5:] = 0
    two = {name: np.concatenate([array, array]) for name, array in text(7).items()}
    given = Feeds((padded, two, text(7), text(9)), "given")
    assert batched(given, SIGNATURE).feeds is given
    assert alone(given).members == batched(given, SIGNATURE).members


def test_outputs_of_a_batch_are_compared_with_those_of_its_samples() -> None:
    one, other = (np.arange(6.0).reshape(1, 2, 3) + shift for shift in (0, 10))
    singles = [{"y": one, "n": np.array([1])}, {"y": other, "n": np.array([2])}]
    batch = {"y": np.concatenate([one, other]), "n": np.array([1, 2])}
    assert are_rows_of(batch, singles, 1e-3)
    assert are_rows_of({**batch, "y": batch["y"] + 0.01}, singles, 1e-3)
    hidden = [{"y": np.array([[1.0, -np.inf]])}, {"y": np.array([[-np.inf, 2.0]])}]
    together = np.concatenate([single["y"] for single in hidden])
    assert are_rows_of({"y": together}, hidden, 1e-3)
    assert not are_rows_of({"y": np.nan_to_num(together)}, hidden, 1e-3)
    labels = [{"label": np.array([name], object)} for name in "ab"]
    assert are_rows_of({"label": np.array(["a", "b"], object)}, labels, 1e-3)
    assert not are_rows_of({"label": np.array(["a", "a"], object)}, labels, 1e-3)
    wrong: tuple[dict[str, Any], ...] = (
        {**batch, "y": batch["y"] + 0.1},
        {**batch, "y": batch["y"][::-1]},
        {**batch, "y": batch["y"][:1]},
        {**batch, "y": np.full_like(batch["y"], np.nan)},
        {**batch, "n": np.array([1, 3])},
        {**batch, "n": np.array(1)},
        {**batch, "more": one},
        {},
    )
    assert not any(are_rows_of(outputs, singles, 1e-3) for outputs in wrong)
