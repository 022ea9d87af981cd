"""Residuals of models whose graphs are out of the ordinary: what a product makes up for, and what it must not."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from onnxfq.calibration.streams import Residual
from onnxfq.quantization.passage import Passage
from support.models import Array, model
from support.sampled import calibrated, tokens
from support.tiny import weight

START = "a = MatMul(x, w0) r = Add(a, b) t = Tanh(r) "
# Scores below 0 become minus infinity, in both models; the product reads what is left of them.
HIDDEN = (
    "zero = Constant <value = float {0.0}> () far = Constant <value = float {-3.0e38}> () hidden = Add(far, far) "
    f"{START} out = Less(r, zero) s = Where(out, hidden, r) e = Exp(s) u = Tanh(e) "
    "o = MatMul(u, w1) c = Add(o, b) y = Add(c, s)"
)
# Attention and MLP side by side: both are added to one residual.
SUM_FIRST = "o = MatMul(t, w1) p = Add(o, b) v = Sin(r) q = MatMul(v, w2) u = Add(q, b) s = Add(p, u) y = Add(s, r)"
IN_TURN = "o = MatMul(t, w1) p = Add(o, b) v = Sin(r) q = MatMul(v, w2) u = Add(q, b) s = Add(p, r) y = Add(s, u)"


def constants() -> dict[str, Array]:
    found = {f"w{seed}": weight(seed) / np.float32(8) for seed in range(3)}
    return found | {"b": weight(7, 1, 64)[0]}


def test_infinity_in_a_residual_leaves_the_bias_finite(tmp_path: Path) -> None:
    proto = model(HIDDEN, y="float[M, 64] y", constants=constants())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = calibrated(proto, tmp_path, tokens(*[20] * 40), slack=1.5)
    written = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(done.output).graph.initializer]
    assert all(np.isfinite(array).all() for array in written if array.dtype.kind == "f")


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...] | None]:
    """What the product of each stage is added to."""
    names, find = list[tuple[str, ...] | None](), Passage._find_residuals

    def noted(self: Passage, outputs: Collection[str]) -> list[Residual | None]:
        own = find(self, outputs)
        names[:] = [None if residual is None else residual.names for residual in own]
        return own

    monkeypatch.setattr(Passage, "_find_residuals", noted)
    return names


@pytest.mark.parametrize(
    ("body", "residuals"),
    [(SUM_FIRST, [None, ("r",), ("p", "r")]), (IN_TURN, [None, ("r",), ("s",)])],
    ids=["products first", "in turn"],
)
def test_products_side_by_side_do_not_both_make_up_for_the_same(
    body: str,
    residuals: list[tuple[str, ...] | None],
    found: list[tuple[str, ...] | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proto = model(START + body, y="float[M, 64] y", constants=constants())
    samples, alone = tokens(*[24] * 64), tmp_path / "alone"
    together = calibrated(proto, tmp_path, samples)
    assert found == residuals
    alone.mkdir()
    monkeypatch.setattr(Passage, "_find_residuals", lambda self, outputs: [None] * len(self.stages))
    assert together.error < 0.95 * calibrated(proto, alone, samples).error


def test_rows_that_run_across_the_outputs_have_no_residual(found: list[tuple[str, ...] | None], tmp_path: Path) -> None:
    body = "z = Transpose <perm = [1, 0]> (r) o = MatMul(w1, z) y = Add(o, z)"
    calibrated(model(START + body, y="float[64, M] y", constants=constants()), tmp_path, tokens(*[64] * 34))
    assert found == [None, None]


def test_a_residual_of_inputs_that_are_always_zero(tmp_path: Path) -> None:
    body = "z = Sub(t, t) o = MatMul(z, w1) y = Add(o, r)"
    proto = model(START + body, y="float[M, 64] y", constants=constants())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calibrated(proto, tmp_path, tokens(*[20] * 40))
