"""Tuning by gradients: what it gains on data that it has not seen, what it leaves alone, and what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxfq
from onnxfq import pipeline
from onnxfq.errors import UsageError
from onnxfq.metrics.output_error import compare
from onnxfq.quantization import tune_written
from onnxfq.quantization.keep_better import Judgement
from onnxfq.session import Session
from onnxfq.signature import Signature, TensorSpec
from onnxfq.tuning.parameters import TunedVector
from onnxfq.tuning.training import counting
from support.models import Array, constant, model, normal, whole, write, write_external

ROOT = Path(__file__).resolve().parents[2]
OPT = ROOT / "models" / "opt-4m" / "model.onnx"


def network(path: Path, *, external: bool = False, last: str = "y = Add(p, c)", **more: Array) -> Path:
    """Two products with a bias and a normalization layer between them, [B, T, 64] → [B, T, 64]."""
    random = np.random.default_rng(5)
    w = [np.asarray(random.standard_normal((64, 64)) / 8, np.float32) for _ in range(2)]
    proto = model(
        "h = MatMul(x, w0) b = Add(h, bias) n = LayerNormalization(b, gain, shift) t = Tanh(n) p = MatMul(t, w1) "
        + last,
        x="float[B, T, 64] x", y="float[B, T, 64] y",
        w0=w[0], w1=w[1], bias=normal(64), gain=np.ones(64, np.float32), shift=normal(64), c=normal(64), constants=more,
    )  # fmt: skip
    return write_external(proto, path) if external else write(proto, path)


def samples(count: int, seed: int) -> list[dict[str, Array]]:
    """Samples whose columns hang together."""
    mix = np.random.default_rng(9).standard_normal((16, 64))
    random = np.random.default_rng(seed)
    return [{"x": np.asarray(random.standard_normal((1, 12, 16)) @ mix, np.float32)} for _ in range(count)]


def quantize(source: Path, output: Path, tune: int, **changes: Any) -> onnxfq.Report:
    settings: dict[str, Any] = {"calib": samples(64, 1), "samples": 64, "bits": 2, "validate": False, "provider": "cpu"}
    return onnxfq.quantize(source, output, tune=tune, **{**settings, **changes})


def error(source: Path, output: Path) -> float:
    """On samples that nothing was fitted to."""
    (found,) = compare(Session(source), Session(output), samples(64, 2))
    assert found.relative_mse is not None
    return found.relative_mse


def tensors(path: Path) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def told(report: onnxfq.Report) -> str:
    return " ".join(report.warnings)


def was_tried(report: onnxfq.Report) -> bool:
    """Whether gradients could be computed, and agreed with what changes do."""
    return bool(re.search("TUNED by gradients|the tuned file was no better|no pass of `tune`", told(report)))


@pytest.mark.parametrize("external", [False, True], ids=["inline", "external"])
def test_less_error_on_data_that_it_was_not_fitted_to(tmp_path: Path, external: bool) -> None:
    source, plain, tuned = network(tmp_path / "in.onnx", external=external), tmp_path / "0.onnx", tmp_path / "8.onnx"
    quantize(source, plain, 0)
    report = quantize(source, tuned, 8)
    assert re.search(
        r"TUNED by gradients, 8 passes over the samples(, of which number \d was the best)?: relative", told(report)
    )
    assert error(source, tuned) < 0.97 * error(source, plain)
    before, after = tensors(plain), tensors(tuned)
    assert before.keys() == after.keys()
    changed = {name for name, value in after.items() if not np.array_equal(value, before[name])}
    assert all(before[name].dtype == np.float32 for name in changed)
    assert {"bias", "gain", "shift", "c"} <= {name.split("_")[0] for name in changed}
    assert sum("scales" in name for name in changed) == 2
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".bin" and "in" not in path.name) == (
        ["0.onnx", "0.onnx.data", "8.onnx", "8.onnx.data"] if external else ["0.onnx", "8.onnx"]
    )


def test_the_report_says_what_the_file_holds(tmp_path: Path) -> None:
    source, output = network(tmp_path / "in.onnx"), tmp_path / "out.onnx"
    report, held = quantize(source, output, 4), tensors(output)
    for target, weight in zip(report.targets, ("w0", "w1"), strict=True):
        node = next(n for n in onnx.load(output).graph.node if n.name == target.name or target.name in n.output)
        codes, scales, zeros = (held[name] for name in node.input[1:4])
        four = np.stack([(codes.reshape(64, -1) >> shift) & 3 for shift in (0, 2, 4, 6)], axis=-1).reshape(64, 64)
        zero = np.stack([(zeros.reshape(64, -1) >> shift) & 3 for shift in (0, 2, 4, 6)], axis=-1).reshape(64, -1)
        steps = four.astype(np.float64) - zero[:, :2].repeat(32, axis=1)
        w = tensors(source)[weight].T.astype(np.float64)
        wanted = ((w - steps * scales.reshape(64, 2).repeat(32, axis=1)) ** 2).sum() / (w**2).sum()
        assert target.relative_error == pytest.approx(wanted, rel=1e-4)


def test_the_same_bytes_for_any_number_of_threads(tmp_path: Path) -> None:
    source = network(tmp_path / "in.onnx")
    for threads in (1, 2):
        quantize(source, tmp_path / f"{threads}.onnx", 2, threads=threads)
    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "2.onnx").read_bytes()


def test_logits_come_nearer_to_those_of_the_original(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    texts = [{"input_ids": random.integers(0, 4000, (1, 64))} for _ in range(32)]
    report = quantize(OPT, tmp_path / "out.onnx", 2, calib=texts, samples=32, algorithm="gptq:refine=0")
    assert re.search(r"\bTUNED by gradients, 2 passes over the samples(, of .*)?: mean KL", told(report))
    assert "NOT TUNED" not in told(report)


def test_constants_of_nodes_are_found_in_the_written_file(tmp_path: Path) -> None:
    source = network(tmp_path / "in.onnx", last="k = Gather(big, i) m = Mul(p, k) y = Add(m, c)", i=whole(1))
    proto = onnx.load(source)
    proto.graph.node.insert(0, constant(np.full(100_000, 2, np.float32), "big"))
    report = quantize(write(proto, source), tmp_path / "out.onnx", 4)
    assert "NOT TUNED" not in told(report)


def test_padding_does_not_count() -> None:
    signature = Signature(
        (TensorSpec("input_ids", "int64", ("B", "T")), TensorSpec("attention_mask", "int64", ("B", "T"))), ()
    )
    ids, mask = np.ones((1, 4), np.int64), np.array([[1, 1, 0, 0]])
    weights = counting({"input_ids": ids, "attention_mask": mask}, signature, np.zeros((1, 4, 8), np.float32))
    assert weights.shape == (1, 4, 1)
    assert weights.reshape(-1).tolist() == [1, 1, 0, 0]


def test_what_comes_before_an_operator_without_a_gradient_is_left_alone_whatever_other_ways_there_are(
    tmp_path: Path,
) -> None:
    last = "s = CumSum(t, one) q = Mul(s, small) r = Add(p, q) y = Mul(r, c)"
    source = network(tmp_path / "in.onnx", last=last, one=np.array(1), small=np.array(0.01, np.float32))
    report = quantize(source, tmp_path / "out.onnx", 4)
    assert "What comes before CumSum was left as it was" in told(report)
    quantize(source, tmp_path / "plain.onnx", 0)
    before, after = tensors(tmp_path / "plain.onnx"), tensors(tmp_path / "out.onnx")
    changed = {name.split("_")[0] for name in after if not np.array_equal(after[name], before[name])}
    assert changed == {"w1", "c"}


def test_branches_that_read_what_is_tuned_are_named(tmp_path: Path) -> None:
    source = network(tmp_path / "in.onnx", last="y = Add(p, extra)", yes=np.array(True))
    proto = onnx.load(source)
    branch = onnx.parser.parse_graph("b () => (float[B, T, 64] z) { z = Add(t, t) }")
    node = onnx.helper.make_node("If", ["yes"], ["extra"], then_branch=branch, else_branch=branch)
    proto.graph.node.insert(len(proto.graph.node) - 1, node)
    report = quantize(write(proto, source), tmp_path / "out.onnx", 4)
    assert "What comes before If was left as it was" in told(report)


@pytest.mark.parametrize(
    ("last", "more", "note"),
    [
        ("q = Add(p, c) y = Gather<axis = 1>(q, i)", {"i": np.array(0)}, ""),
        ("q = Add(p, c) n2 = Mul(q, q) y = Gather<axis = 1>(n2, i)", {"i": np.array(0)}, ""),
        ("q = Add(p, c) y = Slice(q, a, e, x1)",
         {"a": whole(0).astype(np.int32), "e": whole(9).astype(np.int32), "x1": whole(1).astype(np.int32)}, ""),
        ("q = Add(p, c) y = ReduceMean<keepdims = 0>(q)", {}, ""),
        ("q = Add(p, c) y = ReduceSum<keepdims = 0>(q, none)", {"none": np.zeros(0, np.int64)}, ""),
        ("q = Add(p, c) k = Cast<to = 10>(q) d = Mul(k, k) y = Cast<to = 1>(d)", {}, "gradient of Cast"),
        ("q = Add(p, c) y = Add(q, s)", {"s": np.full((2, 2, 2), -np.inf, np.float32)[0, 0, :1]}, "NOT TUNED"),
    ],
    ids=["Gather", "Gather of squares", "Slice", "scalar", "no axes", "float16", "infinite"],
)  # fmt: skip
def test_odd_ends(tmp_path: Path, last: str, more: dict[str, Array], note: str) -> None:
    source = network(tmp_path / "in.onnx", external=False, last=last, **more)
    proto = onnx.load(source)
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    if "keepdims" not in last:
        dims = {"Gather": 2}.get("Gather" if "Gather" in last else "", 3)
        for _ in range(dims):
            proto.graph.output[0].type.tensor_type.shape.dim.add()
    report = quantize(write(proto, source), tmp_path / "out.onnx", 2)
    assert (note in told(report)) if note else was_tried(report)


def test_gathers_of_models_for_old_operators_are_named(tmp_path: Path) -> None:
    proto = model(
        "h = MatMul(x, w0) q = Add(h, c) y = Gather<axis = 1>(q, i)", x="float[B, T, 64] x", y="float[B, 64] y",
        opset=14, w0=normal(64, 64), c=normal(64), i=np.array(0),
    )  # fmt: skip
    report = quantize(write(proto, tmp_path / "in.onnx"), tmp_path / "out.onnx", 2)
    assert "NOT TUNED: nothing is known of the gradient of Gather." in told(report)


@pytest.mark.parametrize("first", [1, 12], ids=["short first", "long first"])
def test_samples_of_different_lengths(tmp_path: Path, first: int) -> None:
    proto = model(
        "q = MatMul(x, w0) k = MatMul(x, w1) kt = Transpose<perm = [1, 0]>(k) s = MatMul(q, kt) z = Mul(s, small)"
        "a = Softmax(z) v = MatMul(x, w2) o = MatMul(a, v) m = ReduceMean<axes = [0]>(v) p = Add(o, m) y = Add(p, c)",
        x="float[T, 64] x", y="float[T, 64] y", w0=normal(64, 64), w1=normal(64, 64)[::-1].copy(),
        w2=normal(64, 64)[:, ::-1].copy(), c=normal(64), small=np.array(0.01, np.float32),
    )  # fmt: skip
    given = [{"x": sample["x"][0, : first if i == 0 else 1 + i % 12]} for i, sample in enumerate(samples(64, 1))]
    report = quantize(write(proto, tmp_path / "in.onnx"), tmp_path / "out.onnx", 8, calib=given)
    assert was_tried(report)


def test_outputs_that_are_tensors_themselves_stay(tmp_path: Path) -> None:
    source = network(tmp_path / "in.onnx")
    proto = onnx.load(source)
    proto.graph.output.append(onnx.helper.make_tensor_value_info("gain", onnx.TensorProto.FLOAT, [64]))
    report = quantize(write(proto, source), tmp_path / "out.onnx", 4)
    assert "TUNED by gradients" in told(report)
    assert (tensors(tmp_path / "out.onnx")["gain"] == 1).all()


def test_scores_of_one_column_are_no_distribution(tmp_path: Path) -> None:
    proto = model(
        "h = MatMul(x, w0) b = Add(h, bias) t = Tanh(b) p = MatMul(t, w1) logits = Add(p, c)",
        x="float[B, T, 64] x", y="float[B, T, 1] logits", w0=normal(64, 64) / 8, w1=normal(64, 1), bias=normal(64),
        c=normal(1),
    )  # fmt: skip
    report = quantize(write(proto, tmp_path / "in.onnx"), tmp_path / "out.onnx", 8)
    assert "gradients" in told(report)
    assert "relative MSE" in told(report)


def test_inputs_with_values_of_their_own_count_as_they_are_given(tmp_path: Path) -> None:
    source = network(tmp_path / "in.onnx", last="m = Mul(p, often) y = Add(m, c)", often=np.ones(1, np.float32))
    proto = onnx.load(source)
    proto.graph.input.append(onnx.helper.make_tensor_value_info("often", onnx.TensorProto.FLOAT, [1]))
    write(proto, source)
    given = [{**sample, "often": np.full(1, 3, np.float32)} for sample in samples(64, 1)]
    report = quantize(source, tmp_path / "out.onnx", 8, calib=given)
    assert "TUNED by gradients" in told(report)
    assert "NOT TUNED" not in told(report)


def test_a_few_very_large_elements_do_not_make_a_vector_large() -> None:
    vector = normal(64)
    masked = np.concatenate([vector, np.full(4, -1e9, np.float32)])
    steps = [TunedVector(one).slope(np.ones_like(one))[0] for one in (vector, masked)]
    assert steps[1] == pytest.approx(steps[0], rel=2.5)


@pytest.mark.parametrize("better", [True, False], ids=["better", "no better"])
def test_nothing_is_left_beside_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, better: bool) -> None:
    (tmp_path / "models").mkdir()
    network(tmp_path / "models" / "model.onnx")
    judgement = Judgement("relative MSE", 1.0, 2.0) if better else Judgement("relative MSE", 2.0, 1.0)
    monkeypatch.setattr(tune_written, "compare_errors", lambda *errors: judgement)
    report = quantize(tmp_path / "models", tmp_path / "out", 4)
    assert ("NOT TUNED: the tuned file was no better" in told(report)) is not better
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.onnx"]


def test_a_file_made_without_data_is_not_told_to_be_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "compare_errors", lambda *errors: Judgement("relative MSE", 2.0, 1.0))
    report = quantize(network(tmp_path / "in.onnx"), tmp_path / "out.onnx", 4, validate=True)
    assert "which was kept" in told(report)
    assert "TUNED" not in told(report)
    assert "onnxfq.tuned" not in {entry.key for entry in onnx.load(tmp_path / "out.onnx").metadata_props}


def test_the_largest_values_must_fit_into_the_memory(tmp_path: Path) -> None:
    long = [{"x": np.repeat(sample["x"], 100, axis=1)} for sample in samples(32, 1)]
    report = quantize(network(tmp_path / "in.onnx"), tmp_path / "out.onnx", 1, calib=long, memory=1_500_000)
    assert "NOT TUNED: what it computes on a sample takes about" in told(report)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"calib": samples(8, 1)}, "NOT TUNED: 8 samples are too few to see what it does (wanted 16 or more)."),
        ({"calib": [*samples(31, 1), *[{"x": np.full((1, 2, 64), 1e38, np.float32)}] * 33]}, "NOT TUNED: "),
    ],
    ids=["few", "NaN"],
)  # fmt: skip
def test_why_a_model_was_not_tuned(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    source = network(tmp_path / "in.onnx")
    report = quantize(source, tmp_path / "out.onnx", 1, **changes)
    assert reason in told(report)
    quantize(source, tmp_path / "plain.onnx", 0, **changes)
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "plain.onnx").read_bytes()


def test_an_operator_whose_gradient_is_not_known_is_named(tmp_path: Path) -> None:
    source = network(tmp_path / "in.onnx", last="q = Add(p, c) y = CumSum(q, axis)")
    proto = onnx.load(source)
    proto.graph.initializer.append(numpy_helper.from_array(np.array(1), "axis"))
    report = quantize(write(proto, source), tmp_path / "out.onnx", 1)
    assert "NOT TUNED: nothing is known of the gradient of CumSum." in told(report)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tune": -1}, "`tune` must be 0 or more"),
        ({"calib": None}, "`tune` goes through the samples of `calib`"),
        ({"algorithm": "awq"}, "`tune` goes on from what `algorithm=gptq` has calibrated"),
        ({"algorithm": "rtn"}, "`tune` goes on from what `algorithm=gptq` has calibrated"),
        ({"target_size": "30%", "bits": None, "validate": True}, "`tune` and `target_size` do not go together"),
        ({"memory": 60_000}, "`tune` runs"),
    ],
)
def test_what_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    settings = {"tune": 1, **changes}
    settings = {name: value for name, value in settings.items() if name == "calib" or value is not None}
    if "bits" in changes:
        settings["bits"] = 4
    with pytest.raises(UsageError, match=message):
        quantize(network(tmp_path / "in.onnx"), tmp_path / "out.onnx", **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["in.onnx"]
