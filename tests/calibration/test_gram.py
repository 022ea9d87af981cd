from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from onnxfq.arrays import Array
from onnxfq.calibration.host_sums import HostSums
from onnxfq.calibration.statistics_session import CHUNK_TOKENS, Gram
from onnxfq.calibration.sums import Sums
from onnxfq.graph import gram_model
from onnxfq.session import Session
from onnxfq.statistics import Statistics

K = 48


def gram(dtype: npt.DTypeLike = np.float32, **changes: Any) -> Gram:
    settings: dict[str, Any] = {
        "crossed": True,
        "transposed": False,
        "rounded_in": None,
        "provider": "cpu",
        "threads": None,
    }
    return Gram(np.dtype(dtype), K, **settings | changes)


def tokens(seed: int, *shape: int, dtype: npt.DTypeLike = np.float32) -> Array:
    return (np.random.default_rng(seed).standard_normal((*shape, K)) * np.arange(1, K + 1)).astype(dtype)


def everything(count: int) -> Array:
    return np.arange(count)


def gram_of(statistics: Statistics) -> Array:
    assert statistics.gram is not None
    return statistics.gram


def cross_of(statistics: Statistics) -> Array:
    assert statistics.cross is not None
    return statistics.cross


def rounded(x: Array, block: int) -> Array:
    """Int8 codes with one scale, absmax / 127, a block of columns."""
    padded = np.pad(x.astype(np.float32), ((0, 0), (0, -x.shape[1] % block)))
    blocks = padded.reshape(len(x), -1, block)
    scale = np.maximum(np.abs(blocks).max(axis=2, keepdims=True), np.finfo(np.float32).tiny) / np.float32(127)
    return np.asarray((np.rint(blocks / scale) * scale).reshape(len(x), -1)[:, : x.shape[1]])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_statistics_are_those_of_numpy(dtype: npt.DTypeLike) -> None:
    sums = gram(dtype)
    pairs = [
        (tokens(i, 1, n, dtype=dtype), tokens(100 + i, 1, n, dtype=dtype)) for i, n in enumerate((5, 300, 1, 2500))
    ]
    for x, y in pairs:
        sums.add(x, y, everything(x.shape[1]))
    found = sums.statistics()
    x, y = (np.concatenate([p[i].reshape(-1, K) for p in pairs]).astype(np.float64) for i in (0, 1))
    assert found.tokens == len(x) > CHUNK_TOKENS
    assert found.mean is not None
    assert found.float_mean is not None
    np.testing.assert_allclose(gram_of(found), y.T @ y / len(x), rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(cross_of(found), x.T @ y / len(x), rtol=1e-5, atol=1e-2)
    np.testing.assert_allclose(found.mean, y.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(found.float_mean, x.mean(axis=0), atol=1e-4)
    assert (found.min, found.max) == (y.min(), y.max())


def test_bfloat16_activations_are_taken() -> None:
    x = tokens(0, 64, dtype=ml_dtypes.bfloat16)
    sums = gram(ml_dtypes.bfloat16, crossed=False)
    sums.add(x, None, everything(64))
    found, exact = gram_of(sums.statistics()), x.astype(np.float64)
    np.testing.assert_allclose(found, exact.T @ exact / 64, rtol=1e-5, atol=1e-3)


def test_streams_that_are_the_same_have_no_cross_matrix() -> None:
    sums = gram(crossed=False)
    sums.add(tokens(0, 7), None, everything(7))
    assert sums.statistics().cross is None


def test_only_the_wanted_tokens_count() -> None:
    x, y = tokens(0, 4, 8), tokens(1, 4, 8)
    rows = np.array([0, 3, 17, 31])
    sums, alone = gram(), gram()
    sums.add(x, y, rows)
    alone.add(x.reshape(-1, K)[rows], y.reshape(-1, K)[rows], everything(4))
    found, wanted = sums.statistics(), alone.statistics()
    assert found.tokens == 4
    for name in ("gram", "cross", "mean", "float_mean", "min", "max"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


def test_transposed_activations_are_turned() -> None:
    x, y = tokens(0, 20), tokens(1, 20)
    sums, plain = gram(transposed=True), gram()
    for start in (0, 10):
        part = slice(start, start + 10)
        sums.add(x[part].T, y[part].T, everything(10))
        plain.add(x[part], y[part], everything(10))
    np.testing.assert_allclose(gram_of(sums.statistics()), gram_of(plain.statistics()), rtol=1e-6)


@pytest.mark.parametrize("block", [16, 32, 64])
def test_activations_are_rounded_to_int8_in_blocks(block: int) -> None:
    x, y = tokens(0, 200), tokens(1, 200)
    y[3] = 0
    sums = gram(rounded_in=block)
    sums.add(x, y, everything(200))
    found, r = sums.statistics(), rounded(y, block).astype(np.float64)
    np.testing.assert_allclose(gram_of(found), r.T @ r / 200, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(cross_of(found), x.astype(np.float64).T @ r / 200, rtol=1e-4, atol=1e-1)
    assert found.max == y.max(), "ranges are those before rounding"


def test_no_tokens_give_no_numbers_that_are_not_finite() -> None:
    sums = gram()
    sums.add(tokens(0, 3), tokens(1, 3), np.array([], np.int64))
    found = sums.statistics()
    assert found.tokens == 0
    assert not gram_of(found).any()


@pytest.mark.parametrize("settings", [{}, {"crossed": False}, {"rounded_in": 32}, {"transposed": True}])
def test_sums_in_host_memory_are_those_of_a_session(settings: dict[str, Any]) -> None:
    k, chosen = 300, {"crossed": True, "transposed": False, "rounded_in": None} | settings
    rng = np.random.default_rng(0)
    x = rng.standard_normal((90, k), np.float32)
    y = x + rng.standard_normal((90, k), np.float32)
    values = {"original": x, "quantized": y} if chosen["crossed"] else {"original": x}
    feed: dict[str, Array] = {name: value.T if chosen["transposed"] else value for name, value in values.items()}
    feed["rows"] = np.arange(0, 90, 2)
    start = {"gram": np.zeros((k, k)), "cross": np.zeros((k, k))}
    host = HostSums(start, threads=None, **chosen)
    session = Sums(Session(gram_model(np.float32, k, **chosen)), start)
    for _ in range(2):
        found, wanted = host.add(feed), session.add(feed)
        assert found.keys() == wanted.keys()
        for name, value in found.items():
            np.testing.assert_allclose(value, wanted[name], rtol=1e-4, atol=1e-4, err_msg=name)
    taken, told = host.take(), session.take()
    if not chosen["crossed"] and chosen["rounded_in"] is None:
        del taken["cross"], told["cross"]
    for name, value in taken.items():
        np.testing.assert_allclose(value, told[name], rtol=1e-4, atol=1e-3, err_msg=name)
    assert not host.read()["gram"].any(), "they begin again"


def test_sums_are_the_same_on_any_number_of_threads() -> None:
    x, y = tokens(0, 500), tokens(1, 500)
    found = []
    for threads in (1, 2, 5):
        start = {"gram": np.zeros((K * 20, K * 20)), "cross": np.zeros((K * 20, K * 20))}
        sums = HostSums(start, crossed=True, transposed=False, rounded_in=32, threads=threads)
        sums.add({"original": x.reshape(-1, K * 20), "quantized": y.reshape(-1, K * 20), "rows": np.arange(25)})
        found.append(sums.read())
    for other in found[1:]:
        for name in ("gram", "cross"):
            np.testing.assert_array_equal(found[0][name], other[name])
    np.testing.assert_array_equal(found[0]["gram"], found[0]["gram"].T)


@pytest.mark.cuda
def test_the_gpu_adds_up_the_same() -> None:
    found = []
    for provider in ("cpu", "cuda"):
        sums = gram(provider=provider, rounded_in=32)
        for i in range(5):
            sums.add(tokens(i, 900), tokens(50 + i, 900), everything(900))
        found.append(sums.statistics())
    cpu, cuda = found
    for name in ("gram", "cross", "mean"):
        np.testing.assert_allclose(getattr(cuda, name), getattr(cpu, name), rtol=1e-3, atol=1e-1)
