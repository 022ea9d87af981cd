"""Settings that are chosen by the error on tokens that no moment is of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnxfq.arrays import Float32Array, Float64Array
from onnxfq.held_tokens import HeldTokens
from onnxfq.scheme import Scheme
from onnxfq.solvers.gptq import Gptq
from onnxfq.solvers.held_choice import choose_target
from onnxfq.statistics import Statistics

N, K = 24, 150
Stage = tuple[Float32Array, Statistics, HeldTokens]  # rows of a weight, what is measured, and what is held back


def drawn(seed: int, tokens: int) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Inputs, the same with an error that follows from them and one that does not, and a residual's error."""
    fixed, rng = np.random.default_rng(0), np.random.default_rng(seed)
    mix, link, drift = (fixed.standard_normal(shape) / 12 for shape in ((K, K), (K, K), (K, N)))
    x = rng.standard_normal((tokens, K)) @ mix
    off = x + 0.1 * x @ link
    return x, off, 2 * off @ drift + 0.02 * rng.standard_normal((tokens, N))


def stage(tokens: int, *, noise: float = 0.0) -> Stage:
    x, off, drift = drawn(1, tokens)
    rng = np.random.default_rng(9)
    off = off + noise * rng.standard_normal(off.shape)
    statistics = Statistics(
        tokens=tokens,
        gram=off.T @ off / tokens,
        cross=x.T @ off / tokens,
        mean=off.mean(axis=0),
        float_mean=x.mean(axis=0),
        drift=drift.T @ off / tokens,
        drift_mean=drift.mean(axis=0),
    )
    other, off, drift = drawn(2, 2000)
    off = off + noise * rng.standard_normal(off.shape)
    held = HeldTokens(off.astype(np.float32), other.astype(np.float32), drift.astype(np.float32))
    return rng.standard_normal((N, K), np.float32), replace(statistics, held=held), held


def left(known: Stage, alpha: float, share: float, damping: float) -> float:
    """What a real-valued weight leaves on held-back tokens, computed anew."""
    weight, statistics, held = known
    assert statistics.gram is not None
    assert statistics.cross is not None
    assert statistics.drift is not None
    assert held.drift is not None
    size = statistics.gram.diagonal().mean()
    pull = alpha * weight @ (statistics.cross - statistics.gram) + share * statistics.drift
    moved = weight + pull @ np.linalg.inv(statistics.gram + damping * size * np.eye(K))
    wanted = held.float_inputs @ weight.T + held.drift
    nothing = wanted - held.inputs @ weight.T
    return float(np.square(wanted - held.inputs @ moved.T).sum() / np.square(nothing).sum())


def test_what_is_chosen_leaves_less_on_fresh_tokens_than_any_other() -> None:
    known = weight, statistics, _ = stage(2000)
    found = choose_target(weight, statistics)
    assert found is not None
    assert found.loss == pytest.approx(left(known, found.alpha, found.residual, found.damping), rel=1e-3)
    assert found.alpha > 0.8
    assert found.residual > 0.8
    for alpha, share in ((0.0, 0.0), (0.5, 0.5), (1.0, 0.0), (0.0, 1.0)):
        assert found.loss < left(known, alpha, share, 0.1)


def test_few_tokens_are_trusted_less_than_many() -> None:
    few, many = (choose_target(*stage(tokens, noise=1.0)[:2]) for tokens in (60, 20_000))
    assert few is not None
    assert many is not None
    assert few.alpha < many.alpha or few.damping > many.damping
    assert few.residual < many.residual or few.damping > many.damping


def test_what_is_given_stays() -> None:
    weight, statistics, _ = stage(500)
    found = choose_target(weight, statistics, alpha=0.25, residual=0.0, damping=0.2)
    assert found is not None
    assert (found.alpha, found.residual, found.damping) == (0.25, 0.0, 0.2)
    tuned = Gptq(alpha=0.25).tuned([weight], statistics)
    assert tuned.alpha == 0.25
    assert tuned.residual is not None


def test_without_held_back_tokens_or_errors_nothing_is_chosen() -> None:
    weight, statistics, _ = stage(500)
    assert choose_target(weight, replace(statistics, held=None)) is None
    assert choose_target(weight, replace(statistics, cross=None, drift=None)) is None
    assert Gptq().tuned([weight], replace(statistics, held=None)) == Gptq()


def test_a_residual_is_made_up_for() -> None:
    weight, statistics, held = stage(4000)
    assert held.drift is not None
    errors = []
    for share in (0.0, 1.0):
        q = Gptq(alpha=1.0, residual=share).solve(weight, Scheme(), statistics, scale_type="float32").dequantize()
        wanted = held.float_inputs @ weight.T + held.drift
        errors.append(float(np.square(wanted - held.inputs @ q.T).sum()))
    assert errors[1] < 0.7 * errors[0]
