"""Channels much larger than the others: the report names the layers that they hurt, and a setting that helps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxfq.int8_rows import round_to_int8
from onnxfq.pipeline import quantize
from support.models import Array, model, write

K, RNG = 256, np.random.default_rng(0)
OUTLIERS = {"one": [3], "one in every block": list(range(0, K, 32))}
NOTE = "Rounding activations to int8 makes most of the error"


@pytest.fixture(autouse=True)
def same_numbers_whatever_ran_before() -> None:
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


def layer(folder: Path, name: str = "/layers.0/up", *, left: bool = False) -> Path:
    weight = (RNG.standard_normal((64, K) if left else (K, 64)) / 16).astype(np.float32)
    body, x = ("p = MatMul (w, x)", "float[256, 32] x") if left else ("p = MatMul (x, w)", "float[32, 256] x")
    bias = np.ones(32 if left else 64, np.float32)
    y = f"float[{'64, 32' if left else '32, 64'}] y"
    proto = model(f"{body}  y = Add (p, b)", x=x, y=y, w=weight, b=bias)
    proto.graph.node[0].name = name
    return write(proto, folder / "in.onnx")


def samples(channels: list[int], *, left: bool = False) -> list[dict[str, Array]]:
    x = RNG.standard_normal((16, 32, K)).astype(np.float32)
    x[..., channels] = 200 + x[..., channels] / 2
    return [{"x": sample.T.copy() if left else sample} for sample in x]


def run(path: Path, data: list[dict[str, Array]], **settings: Any) -> tuple[float, str]:
    report = quantize(path, path.with_name("out.onnx"), calib=data, provider="cpu", **settings)
    error = report.outputs[0].relative_mse
    assert error is not None
    return error, next((warning for warning in report.warnings if NOTE in warning), "")


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("case", OUTLIERS)
def test_the_setting_that_the_note_names_helps(case: str, bits: int, left: bool, tmp_path: Path) -> None:
    path, data = layer(tmp_path, left=left), samples(OUTLIERS[case], left=left)
    before, note = run(path, data, bits=bits)
    assert "a layer" in note
    found = re.search(r"'/layers\.0/up' \((.*)% of .*, (.*)% from its weight\): `schemes=(.*)`\.$", note)
    assert found is not None, note
    of_inputs, of_weights, setting = float(found[1]) / 100, float(found[2]) / 100, found[3]
    assert of_inputs > of_weights
    if not left:  # there, the report's error counts what differs between outputs as variance too
        assert of_inputs + of_weights == pytest.approx(before, rel=0.6)
    after, again = run(path, data, bits=bits, schemes=[setting])
    assert after < before / 1.5
    assert not again


@pytest.mark.parametrize("settings", [{}, {"bits": 8}, {"activations": "float"}])
def test_no_note_where_nothing_is_out_of_the_ordinary(settings: dict[str, Any], tmp_path: Path) -> None:
    data = samples(OUTLIERS["one"] if "activations" in settings else [])
    assert not run(layer(tmp_path), data, **settings)[1]


def test_a_name_that_is_no_regular_expression_of_itself(tmp_path: Path) -> None:
    path, data = layer(tmp_path, "up(0)[a]+"), samples(OUTLIERS["one"])
    before, note = run(path, data)
    setting = note.rsplit("`", 2)[1].removeprefix("schemes=")
    assert run(path, data, schemes=[setting])[0] < before / 3


def test_several_layers_are_counted_and_the_worst_told(tmp_path: Path) -> None:
    body = "  ".join(f"p{i} = MatMul (x, w{i})" for i in range(5)) + "  y = Sum (p0, p1, p2, p3, p4)"
    weights = {f"w{i}": (RNG.standard_normal((K, 64)) / 16).astype(np.float32) for i in range(5)}
    path = write(model(body, x="float[32, 256] x", y="float[32, 64] y", constants=weights), tmp_path / "in.onnx")
    note = run(path, samples(OUTLIERS["one in every block"]))[1]
    assert "5 layers" in note
    assert note.count("`schemes=") == 3
    assert note.endswith("; and 2 more.")


def test_rounding_is_that_of_a_block_s_largest_value() -> None:
    x = np.array([[127.0, 1.4, -0.6, 0.0, 10.0], [0.0, 0.0, 0.0, 0.0, -1.0]])
    np.testing.assert_allclose(round_to_int8(x, 4), [[127.0, 1.0, -1.0, 0.0, 10.0], [0.0, 0.0, 0.0, 0.0, -1.0]])
    assert round_to_int8(x[:0], 4).shape == (0, 5)
