"""What is assumed of inputs that few tokens showed."""

from __future__ import annotations

import numpy as np
import pytest

from onnxfq.statistics import Statistics

K = 16
RNG_SEED = 3


def measured(tokens: int, scale: float = 1.0) -> Statistics:
    x = np.random.default_rng(RNG_SEED).standard_normal((tokens, K))
    x[:, 0] *= scale
    gram = x.T @ x / tokens
    return Statistics(tokens=tokens, gram=gram, cross=gram, mean=x.mean(axis=0), float_mean=x.mean(axis=0))


def test_made_up_tokens_outweigh_a_handful_and_fade_beside_thousands() -> None:
    few, many = measured(2), measured(20_000)
    for known, least, most in ((few, 0.9, 1.0), (many, 0.0, 1e-3)):
        joined = known.with_prior(None, 32)
        assert joined.gram is not None
        assert known.gram is not None
        assert joined.cross is not None
        off = ~np.eye(K, dtype=bool)
        lost = 1 - np.abs(joined.gram[off]).sum() / np.abs(known.gram[off]).sum()
        assert least < lost < most
        assert np.array_equal(joined.gram, joined.cross)
        assert np.linalg.eigvalsh(joined.gram)[0] > 0


def test_one_huge_channel_does_not_make_the_others_look_large() -> None:
    joined, plain = (measured(64, scale).with_prior(None, 32) for scale in (1000.0, 1.0))
    assert joined.gram is not None
    assert plain.gram is not None
    assert joined.gram.diagonal()[1:] == pytest.approx(plain.gram.diagonal()[1:], rel=0.2)


def test_relative_sizes_that_are_known_are_taken_over() -> None:
    sizes = np.arange(1.0, K + 1)
    joined = measured(1).with_prior(sizes, 10_000)
    assert joined.gram is not None
    assert joined.gram.diagonal() / joined.gram.diagonal()[0] == pytest.approx(sizes, rel=0.03)


def test_nothing_is_added_to_nothing() -> None:
    known = measured(8)
    assert known.with_prior(None, 0) is known
    empty = Statistics(tokens=0)
    assert empty.with_prior(None, 32) is empty
