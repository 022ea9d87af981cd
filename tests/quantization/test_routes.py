"""Calibration along several routes through a model's branches, as written and as ONNX Runtime runs it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxfq
from onnxfq.quantization.calibrate import Calibration
from onnxfq.quantization.passage import Tell
from onnxfq.scheme import Scheme
from support.models import EXACT, Array, model, write
from support.sampled import calibrated, error, tokens
from support.tiny import weight

EIGHT_BITS = Scheme(8, 32, activations="int8")


def behind_a_norm() -> onnx.ModelProto:
    """A normalized value that a product outside of an If reads, and another one in one of its branches."""
    scale = np.random.default_rng(0).uniform(0.1, 6, 64).astype(np.float32)
    return model(
        "n = LayerNormalization(x, g, b) p = MatMul(n, w0) r = If (c) <then_branch = t () => (float[M, 64] u) "
        "{ q = MatMul(n, w1) u = Add(q, p) }, else_branch = e () => (float[M, 64] v) { v = Relu(p) }> y = Tanh(r)",
        x="float[M, 64] x, bool c",
        y="float[M, 64] y",
        constants={"g": scale, "b": np.zeros(64, np.float32), "w0": weight(0) / 8, "w1": weight(1) / 8},
    )


def flagged(*flags: bool, name: str = "c") -> list[dict[str, Array]]:
    return [{**feed, name: np.array(flag)} for feed, flag in zip(tokens(*[50] * len(flags)), flags, strict=True)]


@pytest.mark.parametrize("flags", [(False, False, False, True), (True, True, True, False)])
def test_inputs_are_scaled_only_where_all_who_read_them_are_solved_for_it(
    tmp_path: Path, flags: tuple[bool, ...]
) -> None:
    source = write(behind_a_norm(), tmp_path / "in.onnx")
    feeds = flagged(*flags)
    settings: dict[str, Any] = {"provider": "cpu", "validate": False, "scheme": EIGHT_BITS}
    onnxfq.quantize(source, tmp_path / "awq.onnx", calib=feeds, algorithm="awq", **settings)
    onnxfq.quantize(source, tmp_path / "free.onnx", algorithm="hqq", **settings)
    for taken in (False, True):
        own = [feed for feed in feeds if bool(feed["c"]) == taken]
        errors = [error(source, tmp_path / name, own) for name in ("awq.onnx", "free.onnx")]
        assert errors[0] < 2 * errors[1]


def many_ways() -> onnx.ModelProto:
    """Four Ifs one after the other: 16 ways through."""
    steps = [
        f"h{i + 1} = If (c{i}) <then_branch = t () => (float[M, 64] p{i}) {{ t{i} = MatMul(h{i}, wt{i}) "
        f"p{i} = Tanh(t{i}) }}, else_branch = e () => (float[M, 64] q{i}) {{ e{i} = MatMul(h{i}, we{i}) "
        f"q{i} = Tanh(e{i}) }}>"
        for i in range(4)
    ]
    return model(
        "h0 = MatMul(x, w) " + " ".join(steps) + " y = Identity(h4)",
        x="float[M, 64] x, " + ", ".join(f"bool c{i}" for i in range(4)),
        y="float[M, 64] y",
        constants={"w": weight(9) / 8}
        | {f"w{side}{i}": weight(i + 10 * (side == "e")) / 8 for i in range(4) for side in "te"},
    )


def test_of_many_ways_those_are_taken_that_reach_every_branch_and_the_rest_is_told(tmp_path: Path) -> None:
    ways = list(itertools.product([False, True], repeat=4))
    feeds = [
        {**feed, **{f"c{i}": np.array(flag) for i, flag in enumerate(flags)}}
        for feed, flags in zip(tokens(*[50] * 16), ways, strict=True)
    ]
    done = calibrated(many_ways(), tmp_path, feeds)
    assert all(target.tokens for target in done.report.targets)
    assert "8 of 16 samples were left out of calibration" in done.warnings


def test_a_constant_condition_opens_its_branch(tmp_path: Path) -> None:
    proto = model(
        "p = MatMul(x, w0) r = If (c) <then_branch = t () => (float[M, 64] u) { q = MatMul(p, w1) u = Tanh(q) }, "
        "else_branch = e () => (float[M, 64] v) { o = MatMul(p, w2) v = Relu(o) }> y = Tanh(r)",
        y="float[M, 64] y",
        constants={**{f"w{i}": weight(i) / 8 for i in range(3)}, "c": np.array(True)},
    )
    done = calibrated(proto, tmp_path, tokens(60, 60))
    assert {name: target.tokens for name, target in done.targets.items()} == {"p": 120, "q": 120, "o": 0}


def test_a_condition_is_known_however_large_the_rest_of_the_model_is(tmp_path: Path) -> None:
    proto = model(
        "n = Size(x) c = Greater(n, limit) p = MatMul(x, w0) r = If (c) <then_branch = t () => (float[M, 64] u) "
        "{ q = MatMul(p, w1) u = Tanh(q) }, else_branch = e () => (float[M, 64] v) { o = MatMul(p, w2) v = Relu(o) }> "
        "y = Tanh(r)",
        y="float[M, 64] y",
        constants={**{f"w{i}": weight(i) / 8 for i in range(3)}, "limit": np.array(64 * 50)},
    )
    done = calibrated(proto, tmp_path, tokens(60, 40), memory=20_000)
    assert {name: target.tokens for name, target in done.targets.items()} == {"p": 100, "q": 60, "o": 40}


def test_a_weight_whose_first_reader_no_sample_reaches_is_solved_for_the_others(tmp_path: Path) -> None:
    body = (
        "n = ReduceMax<axes = [1], keepdims = 0>(x) b = Greater(n, huge) z = NonZero(b) rows = Squeeze(z, first) "
        "e = Gather(x, rows) m = MatMul(e, w0) s = ReduceSum<keepdims = 1>(m, first) k = MatMul(x, w0) y = Add(k, s)"
    )
    constants: dict[str, Array] = {"w0": weight(0) / 8, "huge": np.array(1e9, np.float32), "first": np.array([0])}
    done = calibrated(model(body, y="float[M, 64] y", constants=constants), tmp_path, tokens(120, 120))
    assert [(t.name, t.tokens, t.algorithm) for t in done.report.targets] == [("m", 240, "gptq"), ("k", 240, "gptq")]
    assert "no sample got that far" not in done.warnings


def test_a_resumed_run_along_several_routes_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(behind_a_norm(), tmp_path / "in.onnx")
    settings: dict[str, Any] = {"calib": flagged(False, True, False), "provider": "cpu", "validate": False}
    onnxfq.quantize(source, tmp_path / "whole.onnx", scheme=EXACT, **settings)
    end = Calibration.end

    def interrupted(self: Calibration, position: int, tell: Tell) -> None:
        if position == len(self.stages) - 1:  # in the second route
            raise KeyboardInterrupt
        end(self, position, tell)

    monkeypatch.setattr(Calibration, "end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        onnxfq.quantize(source, tmp_path / "out.onnx", scheme=EXACT, work_dir=tmp_path / "work", **settings)
    monkeypatch.undo()
    left = {path.name for path in (tmp_path / "work").iterdir()}
    assert not {name for name in left if name.startswith("kept-")}
    onnxfq.quantize(source, tmp_path / "out.onnx", scheme=EXACT, work_dir=tmp_path / "work", resume=True, **settings)
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()
