"""Inputs that have a value of their own, like the factors of an adapter: data may hold them or leave them out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from onnxfq.errors import DataError
from onnxfq.graph import Graph
from onnxfq.pipeline import quantize
from onnxfq.session import Session
from support.models import Array, model, write

RNG = np.random.default_rng(0)
W, V = (RNG.standard_normal((64, 64)).astype(np.float32) / 8 for _ in range(2))
DOWN, UP = np.zeros((64, 4), np.float32), np.zeros((4, 64), np.float32)
FACTORS = {
    "down": RNG.standard_normal((64, 4)).astype(np.float32),
    "up": RNG.standard_normal((4, 64)).astype(np.float32),
}


def adapter(folder: Path) -> Path:
    """Compute x · (W + down · up) · V; `down` and `up` are zero unless a caller feeds them."""
    body = "a = MatMul (x, w)  b = MatMul (x, down)  c = MatMul (b, up)  d = Add (a, c)  y = MatMul (d, v)"
    inputs = "float[M, 64] x, float[64, 4] down, float[4, 64] up"
    return write(model(body, x=inputs, y="float[M, 64] y", w=W, v=V, down=DOWN, up=UP), folder / "in.onnx")


def samples(given: dict[str, Array], count: int = 8) -> list[dict[str, Array]]:
    return [{"x": RNG.standard_normal((20, 64)).astype(np.float32), **given} for _ in range(count)]


def error(folder: Path, given: dict[str, Array]) -> float:
    x = {"x": np.random.default_rng(9).standard_normal((50, 64)).astype(np.float32), **given}
    wanted, got = (Session(folder / name).run(x)["y"] for name in ("in.onnx", "out.onnx"))
    return float(np.square(got - wanted).sum() / np.square(wanted).sum())


def test_the_signature_tells_them_apart(tmp_path: Path) -> None:
    path = adapter(tmp_path)
    for signature in (Graph.load(path).signature, Session(path).signature()):
        assert [spec.name for spec in signature.inputs] == ["x"]
        assert [(spec.name, spec.dtype, spec.shape) for spec in signature.defaults] == [
            ("down", "float32", (64, 4)), ("up", "float32", (4, 64)),
        ]  # fmt: skip


@pytest.mark.parametrize("memory", [10**9, 0])
@pytest.mark.parametrize("given", [{}, FACTORS, {"up": FACTORS["up"]}])
def test_a_model_is_calibrated_and_compared_with_what_is_given(
    given: dict[str, Array], memory: int, tmp_path: Path
) -> None:
    path = adapter(tmp_path)
    report = quantize(path, tmp_path / "out.onnx", calib=samples(given), memory=memory)
    assert {target.tokens for target in report.targets} == {160}
    measured = report.outputs[0].relative_mse
    assert measured is not None
    assert measured == pytest.approx(error(tmp_path, given), rel=0.5)
    assert {skip.name for skip in report.skipped} == {"b", "c"}


def test_the_second_weight_is_solved_for_the_inputs_that_the_factors_make(tmp_path: Path) -> None:
    """With large factors, the second product's inputs are what these make of x."""
    path, given = adapter(tmp_path), {name: 3 * value for name, value in FACTORS.items()}
    found = {}
    for name, data in {"with": samples(given), "without": samples({})}.items():
        quantize(path, tmp_path / "out.onnx", calib=data, validate=False)
        found[name] = error(tmp_path, given)
    assert found["with"] < 0.8 * found["without"]


def mixed(folder: Path) -> Sequence[dict[str, Array]]:
    return [*samples({}, 2), *samples(FACTORS, 1)]


def test_given_in_some_samples_only(tmp_path: Path) -> None:
    message = (
        r"down, which has a value of its own, .* \(got it in 1 of 3, first in sample 3\)\. Give it in all or in none"
    )
    with pytest.raises(DataError, match=message):
        quantize(adapter(tmp_path), tmp_path / "out.onnx", calib=mixed(tmp_path))


def test_factors_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"up has shape \[5, 64\], wanted \[4, 64\]"):
        quantize(adapter(tmp_path), tmp_path / "out.onnx", calib=samples({"up": np.ones((5, 64), np.float32)}))


def test_none_may_be_given_where_the_user_says_that_they_are_constants(tmp_path: Path) -> None:
    path = adapter(tmp_path)
    with pytest.raises(DataError, match=r"no such inputs .*got down, up\)\. Its inputs: x\."):
        quantize(path, tmp_path / "out.onnx", calib=samples(FACTORS), constant_inputs=True)
    quantize(path, tmp_path / "out.onnx", calib=samples({}), constant_inputs=True)
    assert not Session(tmp_path / "out.onnx").signature().defaults
