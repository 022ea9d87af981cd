"""Calibration on samples that are few, strange, broken or padded, through the whole pipeline."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxfq import pipeline
from onnxfq.errors import DataError, ModelError
from onnxfq.quantization import validate
from onnxfq.scheme import Scheme
from onnxfq.session import Session
from support.models import EXACT, Array, model, reasons, write
from support.sampled import calibrated, tokens
from support.tiny import entries, pair, quantize, weight

Feeds = list[dict[str, Array]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(validate, "LATENCY_SECONDS", 0.01)


def two(folder: Path) -> Path:
    """X → MatMul → Tanh → MatMul → y."""
    proto = model("h = MatMul(x, w0) t = Tanh(h) y = MatMul(t, w1)", y="float[M, 64] y", w0=weight(0), w1=weight(1))
    return write(proto, folder / "in.onnx")


def single(folder: Path) -> Path:
    return write(model("y = MatMul(x, w)", y="float[M, 64] y", w=weight()), folder / "in.onnx")


# Few and strange samples


def test_ordinary_samples_are_used_by_every_target(tmp_path: Path) -> None:
    done = calibrated(two(tmp_path), tmp_path, tokens(100, 60, 100), validate=True)
    assert done.error < 0.7 * done.plain_error
    for target in done.targets.values():
        assert (target.algorithm, target.weighted, target.tokens) == ("gptq", "by calibration", 260)
        assert target.output_error is not None
        assert 0 < target.output_error < 0.02
        assert target.activations is not None
        assert target.activations[0] < 0 < target.activations[1]
    assert done.report.calibration == "given: from Python"
    assert "without data" not in done.warnings
    assert "left out" not in done.warnings
    assert done.report.outputs[0].relative_mse == pytest.approx(done.error, rel=0.05)
    assert done.targets["y"].output_error == pytest.approx(done.error, rel=1e-3), "it is the model's output"


@pytest.mark.parametrize("lengths", [(1,), (5,), (63,), (1, 1, 1), (3, 200, 1)], ids=str)
def test_any_number_of_tokens(tmp_path: Path, lengths: tuple[int, ...]) -> None:
    done = calibrated(single(tmp_path), tmp_path, tokens(*lengths), slack=1.001)
    assert done.targets["y"].tokens == sum(lengths)


@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_a_single_token_does_no_harm_to_others(tmp_path: Path, mean: float) -> None:
    """A bias takes up all of a single token's error: what remains to be minimized is rounding noise."""
    proto = model("y = Gemm(x, w, b)", y="float[M, 64] y", w=weight(), b=weight()[0])
    path, rng = write(proto, tmp_path / "in.onnx"), np.random.default_rng(0)
    x = (mean + rng.standard_normal((200, 64))).astype(np.float32)
    error = {}
    for name, samples in {"one": [{"x": x[:1]}], "none": None}.items():
        pipeline.quantize(path, tmp_path / f"{name}.onnx", calib=samples, scheme=EXACT, validate=False)
        wanted, got = (Session(p).run({"x": x})["y"] for p in (path, tmp_path / f"{name}.onnx"))
        error[name] = float(np.square(got - wanted).sum() / np.square(wanted).sum())
    assert error["one"] < 1.5 * error["none"]


def test_samples_without_tokens_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"in sample 2 of those given.* x is empty"):
        pipeline.quantize(two(tmp_path), calib=tokens(20, 0, 20))


def test_a_stage_that_some_samples_give_no_tokens_to(tmp_path: Path) -> None:
    body = (
        "h = MatMul(x, w0) c = ReduceSum<keepdims = 0>(x, one) m = Greater(c, zero) p = Compress<axis = 0>(h, m) "
        "y = MatMul(p, w1)"
    )
    constants = {"w0": weight(0), "w1": weight(1), "one": np.array([1]), "zero": np.zeros(1, np.float32)}
    proto = model(body, y="float[P, 64] y", constants=constants)
    x = tokens(40, 30, 20)
    x[1]["x"] = -np.abs(x[1]["x"])
    done = calibrated(proto, tmp_path, x)
    assert done.targets["h"].tokens == 90
    assert 0 < done.targets["y"].tokens < 60
    none = calibrated(proto, tmp_path, [x[1]])
    assert "1 node was quantized without data: no sample got that far ('y')." in none.warnings


@pytest.mark.parametrize("value", [0.0, 1.0, -3e-20, 1e4, 3e18])
def test_constant_inputs(tmp_path: Path, value: float) -> None:
    x: Feeds = [{"x": np.full((7, 64), value, np.float32)}]
    done = calibrated(single(tmp_path), tmp_path, x, slack=1.001)
    assert done.targets["y"].activations == pytest.approx((value, value))


def test_the_same_sample_again_and_again(tmp_path: Path) -> None:
    calibrated(two(tmp_path), tmp_path, tokens(9) * 5)


@pytest.mark.parametrize("columns", [slice(0, 1), slice(0, 32), slice(5, None, 2), slice(1, 64)], ids=str)
def test_columns_of_the_input_that_are_always_zero(tmp_path: Path, columns: slice) -> None:
    x = tokens(150)
    x[0]["x"][:, columns] = 0
    done = calibrated(single(tmp_path), tmp_path, x)
    assert done.error < 0.9 * done.plain_error


@pytest.mark.parametrize("scale", [1e-18, 1e-6, 1e6, 1e15])
def test_inputs_of_any_size(tmp_path: Path, scale: float) -> None:
    x: Feeds = [{"x": feed["x"] * np.float32(scale)} for feed in tokens(100)]
    done = calibrated(single(tmp_path), tmp_path, x)
    assert done.error < 0.9 * done.plain_error


def test_one_column_a_million_times_the_others(tmp_path: Path) -> None:
    x = tokens(100)
    x[0]["x"][:, 5] *= 1e6
    calibrated(single(tmp_path), tmp_path, x)


@pytest.mark.parametrize(("rank", "shape"), [("M, N", (3, 63)), ("M, N", (3, 1)), ("N", (8,)), ("", ())])
def test_inputs_that_are_too_narrow_for_the_first_weight(rank: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    """The model's own shapes do not say so, and nothing has run it before."""
    proto = model("y = MatMul(x, w)", x=f"float[{rank}] x", y="float[M, 64] y", w=weight())
    samples = [{"x": np.ones(fitting, np.float32)} for fitting in ((3, 64),) * (rank == "M, N")]
    samples.append({"x": np.ones(shape, np.float32)})
    with pytest.raises(DataError, match="multiplied with a weight of 64 rows"):
        pipeline.quantize(write(proto, tmp_path / "in.onnx"), calib=samples, provider="cpu", validate=False)
    assert entries(tmp_path) == ["in.onnx"]


def test_no_samples_at_all(tmp_path: Path) -> None:
    empty: list[Any] = [[], iter([]), (sample for sample in tokens())]
    for calib in empty:
        with pytest.raises(DataError, match="There are no samples in `calib`"):
            pipeline.quantize(two(tmp_path), calib=calib)
    assert entries(tmp_path) == ["in.onnx"]


def test_samples_that_can_be_read_only_once(tmp_path: Path) -> None:
    def once() -> Iterator[dict[str, Array]]:
        yield from tokens(20, 30)

    done = calibrated(two(tmp_path), tmp_path, tokens(20, 30))
    again = pipeline.quantize(tmp_path / "in.onnx", tmp_path / "b.onnx", calib=once(), provider="cpu", scheme=EXACT)
    assert (tmp_path / "b.onnx").read_bytes() == done.output.read_bytes()
    assert [target.tokens for target in again.targets] == [50, 50]


# Samples that give NaN


def broken(folder: Path) -> Path:
    """A model that gives NaN between its two products for samples with negative numbers."""
    body = "h = MatMul(x, w0) r = Sqrt(x) s = Add(h, r) y = MatMul(s, w1)"
    return write(model(body, y="float[M, 64] y", w0=weight(0), w1=weight(1)), folder / "in.onnx")


def positive(*lengths: int) -> Feeds:
    return [{"x": np.abs(feed["x"])} for feed in tokens(*lengths)]


def test_a_sample_that_gives_nan_is_left_out_and_named(tmp_path: Path) -> None:
    x = positive(30, 40, 50)
    x[1]["x"][3, 7] = -1
    done = calibrated(broken(tmp_path), tmp_path, x, validate=True)
    assert re.search(r"1 of 3 samples gave NaN or infinity and were left out .*: 2 \(in 's'\)", done.warnings)
    assert {name: target.tokens for name, target in done.targets.items()} == {"h": 120, "y": 80}
    assert done.error < done.plain_error


def test_samples_that_all_give_nan_leave_the_rest_without_data(tmp_path: Path) -> None:
    done = calibrated(broken(tmp_path), tmp_path, tokens(30, 40))
    assert "2 of 2 samples gave NaN or infinity" in done.warnings
    assert "1 node was quantized without data: no sample got that far ('y')." in done.warnings
    first, second = done.report.targets
    assert (first.algorithm, first.tokens) == ("gptq", 70)
    assert (second.algorithm, second.tokens, second.weighted, second.activations) == ("hqq", 0, "", None)
    assert second.output_error is None
    plain = onnx.load(tmp_path / "plain.onnx")
    second_weights = [
        {t.name: t.raw_data for t in proto.graph.initializer if t.name.startswith("w1")}
        for proto in (onnx.load(done.output), plain)
    ]
    assert second_weights[0]
    assert second_weights[0] == second_weights[1]


def test_nan_at_the_end_of_the_model_disturbs_nothing(tmp_path: Path) -> None:
    body = "h = MatMul(x, w0) t = Log(h) y = Identity(t)"
    done = calibrated(model(body, y="float[M, 64] y", w0=weight(0)), tmp_path, tokens(100), validate=True)
    assert done.targets["h"].tokens == 100
    assert "left out" not in done.warnings


def test_infinity_in_outputs_of_targets_is_left_out_of_their_error(tmp_path: Path) -> None:
    x = tokens(100)
    x[0]["x"][0] = 1e38
    done = calibrated(single(tmp_path), tmp_path, x, slack=1.5)
    assert done.targets["y"].output_error is not None


def test_infinite_inputs_of_the_first_stage_are_refused(tmp_path: Path) -> None:
    x = tokens(10)
    x[0]["x"][0, 0] = np.inf
    with pytest.raises(DataError, match="sample 1 of those given"):
        pipeline.quantize(two(tmp_path), calib=x)


# Padding


def encoder(folder: Path) -> Path:
    """Embedding and a masked mean, two products for every token."""
    proto = model(
        "e = Gather(table, input_ids) h = MatMul(e, w0) a = Add(h, b) t = Tanh(a) z = MatMul(t, w1) "
        "m = Cast<to = 1>(attention_mask) u = Unsqueeze(m, last) v = Mul(z, u) y = ReduceSum<keepdims = 0>(v, one)",
        x="int64[batch, tokens] input_ids, int64[batch, tokens] attention_mask",
        y="float[batch, 64] y",
        table=weight(7, 50),
        w0=weight(0),
        w1=weight(1),
        b=weight(3, 1, 64)[0],
        last=np.array([-1]),
        one=np.array([1]),
    )
    return write(proto, folder / "in.onnx")


def test_padding_never_counts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = [rng.integers(1, 50, length) for length in (5, 17, 9, 30)]
    alone: Feeds = [{"input_ids": t[np.newaxis], "attention_mask": np.ones((1, len(t)), np.int64)} for t in texts]
    batches = []
    for first in (0, 2):
        width = max(map(len, texts[first : first + 2])) + 3
        ids, mask = np.zeros((2, width), np.int64), np.zeros((2, width), np.int64)
        for row, text in enumerate(texts[first : first + 2]):
            ids[row, : len(text)], mask[row, : len(text)] = text, 1
        batches.append({"input_ids": ids, "attention_mask": mask})
    padded, whole = tmp_path / "padded", tmp_path / "whole"
    padded.mkdir()
    whole.mkdir()
    wanted = calibrated(encoder(whole), whole, alone)
    got = calibrated(encoder(padded), padded, batches)
    assert [target.tokens for target in got.report.targets] == [61, 61]
    for ours, theirs in zip(got.report.targets, wanted.report.targets, strict=True):
        assert ours.tokens == theirs.tokens
        assert ours.output_error == pytest.approx(theirs.output_error, rel=0.02)
        assert ours.activations == pytest.approx(theirs.activations)
        assert ours.relative_error == pytest.approx(theirs.relative_error, rel=0.02)


def test_samples_that_are_padding_only(tmp_path: Path) -> None:
    ids = np.ones((2, 8), np.int64)
    empty = {"input_ids": ids, "attention_mask": np.zeros((2, 8), np.int64)}
    done = calibrated(encoder(tmp_path), tmp_path, [empty])
    assert "2 nodes were quantized without data: no sample got that far ('h', 'z')." in done.warnings
    full = {"input_ids": ids, "attention_mask": np.ones((2, 8), np.int64)}
    assert calibrated(encoder(tmp_path), tmp_path, [empty, full]).targets["h"].tokens == 16


# Weights that cannot be


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_damaged_weight_is_refused_before_long_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: float
) -> None:
    bad = weight()
    bad[3, 4] = value
    source = pair(tmp_path / "m.onnx", first=bad)
    np.savez(tmp_path / "x.npz", x=tokens(10)[0]["x"])
    monkeypatch.setattr("onnxfq.quantization.passage.Streams.advance", None)
    assert quantize(source, "--calib", tmp_path / "x.npz") == 3
    assert "NaN or infinite values in 1 weight of" in capsys.readouterr().err
    assert entries(tmp_path) == ["m.onnx", "x.npz"]
    with pytest.raises(ModelError, match="'w0'"):
        pipeline.quantize(source, calib=tokens(10))


# Several sizes and types


@pytest.mark.parametrize(
    "scheme",
    [
        Scheme(),
        Scheme(bits=8),
        Scheme(bits=2, block_size=16, activations="float"),
        Scheme(block_size=128),
        Scheme(block_size="channel"),
        Scheme(block_size="tensor", symmetric=True),
    ],
    ids=str,
)
def test_every_scheme(tmp_path: Path, scheme: Scheme) -> None:
    done = calibrated(two(tmp_path), tmp_path, tokens(200), scheme=scheme, allow_slow=True, slack=1.02)
    assert {target.algorithm for target in done.report.targets} == {"gptq"}


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision(tmp_path: Path, kind: str) -> None:
    body = "h = MatMul(x, w0) a = Add(h, b) t = Tanh(a) y = MatMul(t, w1)"
    constants = {"w0": weight(0), "w1": weight(1), "b": weight(2, 1, 64)[0]}
    dtype: Any = np.float16 if kind == "float16" else __import__("ml_dtypes").bfloat16
    proto = model(
        body,
        x=f"{kind}[M, 64] x",
        y=f"{kind}[M, 64] y",
        constants={name: (array / 8).astype(dtype) for name, array in constants.items()},
    )
    source = write(proto, tmp_path / "in.onnx")
    x: Feeds = [{"x": feed["x"].astype(dtype)} for feed in tokens(80, 50)]
    try:
        Session(source).run(x[0])
    except ModelError:
        pytest.skip(f"no {kind} on this processor")
    done = calibrated(source, tmp_path, x)
    assert done.targets["y"].tokens == 130


def test_values_in_bfloat16_between_stages(tmp_path: Path) -> None:
    proto = model(
        "h = MatMul(x, w0) b = Cast<to = 16>(h) c = Cast<to = 1>(b) t = Tanh(c) z = MatMul(t, w1) r = Add(z, c) "
        "y = MatMul(r, w2)",
        y="float[M, 64] y",
        constants={f"w{i}": weight(i) for i in range(3)},
    )
    whole, spilled = tmp_path / "whole", tmp_path / "spilled"
    for folder, memory in ((whole, 10**9), (spilled, 0)):
        folder.mkdir()
        calibrated(proto, folder, tokens(80, 50), memory=memory)
    assert (whole / "out.onnx").read_bytes() == (spilled / "out.onnx").read_bytes()


def test_float16_that_overflows_in_a_target(tmp_path: Path) -> None:
    proto = model(
        "h = MatMul(x, w0) t = Tanh(h) y = MatMul(t, w1)",
        x="float16[M, 64] x",
        y="float16[M, 64] y",
        constants={"w0": weight(0).astype(np.float16), "w1": weight(1).astype(np.float16)},
    )
    x: Feeds = [{"x": np.clip(feed["x"] * 3000, -6e4, 6e4).astype(np.float16)} for feed in tokens(40)]
    done = calibrated(proto, tmp_path, x)
    assert done.targets["h"].output_error is not None


def test_nothing_to_quantize_needs_no_calibration(tmp_path: Path) -> None:
    proto = model("h = MatMul(x, w0) y = Relu(h)", y="float[M, 64] y", w0=weight(0))
    source = write(proto, tmp_path / "in.onnx")
    with pytest.raises(ModelError):
        pipeline.quantize(source, calib=tokens(10), exclude=["h"])
    assert reasons(pipeline.inspect(source, exclude=["h"], calib=tokens(10)))
