"""What is assumed of inputs that few tokens showed, and what several products with one weight are measured to read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnxfq.arrays import Float64Array
from onnxfq.held_tokens import HeldTokens
from onnxfq.statistics import Statistics, merged, pooled

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


def test_pooled_inputs_are_those_of_both_and_about_means_each_about_its_own() -> None:
    rng = np.random.default_rng(5)
    first, second = rng.standard_normal((40, 6)) + 3, rng.standard_normal((120, 6)) - 5
    parts = [_of(first), _of(second)]
    both = np.concatenate([first, second])
    found = pooled(*parts)
    assert found.tokens == 160
    assert found.gram == pytest.approx(both.T @ both / 160)
    assert found.mean == pytest.approx(first.mean(axis=0))  # of the product whose bias moves
    spread = sum(len(part) * np.cov(part.T, bias=True) for part in (first, second)) / 160
    assert found.centred().gram == pytest.approx(spread)
    assert pooled(found, parts[0]).centred().gram == pytest.approx(
        (160 * spread + 40 * np.cov(first.T, bias=True)) / 200
    )
    assert merged(*parts).centred().gram == pytest.approx(np.cov(both.T, bias=True))


def test_pooled_products_between_the_models_are_kept_where_one_part_has_them() -> None:
    rng = np.random.default_rng(6)
    x, quantized, later = (rng.standard_normal((30, 4)) for _ in range(3))
    own = replace(_of(quantized), cross=x.T @ quantized / 30, float_mean=x.mean(axis=0))
    found = pooled(own, _of(later))
    assert found.cross == pytest.approx((x.T @ quantized + later.T @ later) / 60)


def test_lookups_raise_all_columns_alike() -> None:
    x = np.random.default_rng(7).standard_normal((50, 4)) * [1, 2, 3, 4]
    found = pooled(_of(x), _of(x + 1)).with_lookups(0.3)
    before = pooled(_of(x), _of(x + 1))
    assert found.gram is not None
    assert before.gram is not None
    floor = 0.3 * before.gram.diagonal().mean()
    assert found.gram - before.gram == pytest.approx(floor * np.eye(4))
    assert found.centred().gram == pytest.approx(np.asarray(before.centred().gram) + floor * np.eye(4))
    assert Statistics(tokens=0).with_lookups(0.3).gram is None


def _of(x: Float64Array) -> Statistics:
    return Statistics(tokens=len(x), gram=x.T @ x / len(x), mean=x.mean(axis=0), float_mean=x.mean(axis=0))


def test_a_residual_and_held_back_tokens_follow_what_is_done_to_the_inputs() -> None:
    rng = np.random.default_rng(4)
    x, r = rng.standard_normal((500, K)) + 1, rng.standard_normal((500, 3)) + 2
    held = HeldTokens(*(a.astype(np.float32) for a in (x[:50], x[:50], r[:50])))
    known = replace(measured(500), mean=x.mean(axis=0), float_mean=x.mean(axis=0), gram=x.T @ x / 500)
    known = replace(known, drift=r.T @ x / 500, drift_mean=r.mean(axis=0), held=held)
    centred, scale = known.centred(), np.arange(1.0, K + 1)
    about = (r - r.mean(axis=0)).T @ (x - x.mean(axis=0)) / 500
    assert centred.drift == pytest.approx(about)
    assert centred.held is not None
    assert centred.held.drift == pytest.approx(r[:50] - r.mean(axis=0), abs=1e-5)
    assert centred.held.inputs == pytest.approx(x[:50] - x.mean(axis=0), abs=1e-5)
    assert known.drift is not None
    assert known.scaled(scale).drift == pytest.approx(known.drift / scale)
    rows = known.of_rows(slice(1, 3))
    assert rows.drift == pytest.approx(known.drift[1:3])
    assert rows.held is not None
    assert rows.held.drift is not None
    assert rows.held.drift.shape == (50, 2)
    assert rows.derived("key", lambda _: 1) == known.derived("key", lambda _: 2) == 1
    alone = known.without_drift()
    assert alone.drift is alone.drift_mean is None
    assert alone.held is not None
    assert alone.held.drift is None
    assert merged(known, known).drift is None
