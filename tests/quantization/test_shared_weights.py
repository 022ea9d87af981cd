"""One weight with several readers: solved for all of them, as written and as ONNX Runtime runs it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxfq
from onnxfq.session import Session
from support.models import EXACT, Array, model, write
from support.sampled import calibrated, error, tokens
from support.tiny import weight

LAYERS = 4


def recurrent(*, bias: bool = True, layers: int = LAYERS) -> onnx.ModelProto:
    """A layer that is run again and again, as in ALBERT: x ← tanh(x W + b)."""
    steps = []
    for i in range(layers):
        name = "x" if i == 0 else f"h{i}"
        steps.append(f"m{i} = MatMul({name}, w0)")
        steps += [f"a{i} = Add(m{i}, b{i % 2})"] if bias else [f"a{i} = Identity(m{i})"]
        steps.append(f"h{i + 1} = Tanh(a{i})")
    rng = np.random.default_rng(4)
    biases = {f"b{i}": rng.standard_normal(64).astype(np.float32) for i in range(2)} if bias else {}
    body = " ".join(steps) + f" y = MatMul(h{layers}, w1)"
    return model(body, y="float[M, 64] y", constants={"w0": weight(0) / 4, "w1": weight(1) / 8, **biases})


def readers(size: float = 0.005) -> onnx.ModelProto:
    """Two readers, each of which cares about other columns."""
    first, second = np.ones(64, np.float32), np.ones(64, np.float32)
    first[:32], second[32:] = size, size
    body = "s = Mul(x, a) t = Mul(x, b) u = MatMul(s, w0) v = Tanh(u) z = Sum(v, v) y = MatMul(t, w0)"
    proto = model(body, y="float[M, 64] y", constants={"w0": weight(0), "a": first, "b": second})
    proto.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["M", 64]))
    return proto


def seen_and_unseen(count: int) -> tuple[list[dict[str, Array]], list[dict[str, Array]]]:
    """Two samples of one kind."""
    (feed,) = tokens(2 * count)
    return [{"x": feed["x"][:count]}], [{"x": feed["x"][count:]}]


def test_no_reader_is_worse_off_than_without_data(tmp_path: Path) -> None:
    seen, unseen = seen_and_unseen(200)
    done = calibrated(readers(), tmp_path, seen, scheme=EXACT)
    sessions = [Session(path) for path in (tmp_path / "in.onnx", done.output, tmp_path / "plain.onnx")]
    for name in ("y", "z"):
        wanted, ours, free = ([s.run(feed)[name].astype(np.float64) for feed in unseen] for s in sessions)
        found = [sum(float(((a - b) ** 2).sum()) for a, b in zip(wanted, got, strict=True)) for got in (ours, free)]
        assert found[0] < found[1]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_a_recurrent_layer_gains_from_all_of_its_readers(tmp_path: Path, bias: bool) -> None:
    source = write(recurrent(bias=bias), tmp_path / "in.onnx")
    seen, unseen = seen_and_unseen(300)
    settings: dict[str, Any] = {"provider": "cpu", "validate": False, "scheme": EXACT}
    onnxfq.quantize(source, tmp_path / "plain.onnx", algorithm="hqq", **settings)
    onnxfq.quantize(source, tmp_path / "out.onnx", calib=seen, algorithm="gptq", **settings)
    errors = [error(source, tmp_path / name, unseen) for name in ("out.onnx", "plain.onnx")]
    assert errors[0] < 0.6 * errors[1]


def test_the_bias_behind_each_reader_takes_up_its_own_mean_error(tmp_path: Path) -> None:
    source = write(recurrent(), tmp_path / "in.onnx")
    report = onnxfq.quantize(
        source, tmp_path / "out.onnx", calib=tokens(300), provider="cpu", validate=False, scheme=EXACT
    )
    assert [target.shares for target in report.targets] == ["", *["m0"] * (LAYERS - 1), ""]
    written = onnx.load(tmp_path / "out.onnx")
    adds = [node for node in written.graph.node if node.op_type == "Add"]
    assert len({name for node in adds for name in node.input if "shifted" in name}) == LAYERS
    feed = tokens(300)[0]
    both = [_values(path, [f"a{i}" for i in range(LAYERS)], feed) for path in (source, tmp_path / "out.onnx")]
    for name, before in both[0].items():
        drift = float(np.square((before - both[1][name]).mean(axis=0)).sum())
        spread = float(np.square(before - both[1][name]).mean(axis=0).sum())
        assert drift < 0.05 * spread, name


def _values(path: Path, names: list[str], feed: dict[str, Array]) -> dict[str, Array]:
    """Some inner values of a model."""
    proto = onnx.load(path)
    proto.graph.output.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names)
    return {name: value.astype(np.float64) for name, value in Session(proto.SerializeToString()).run(feed).items()}


def test_a_resumed_run_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(recurrent(), tmp_path / "in.onnx")
    settings: dict[str, Any] = {"calib": tokens(100), "provider": "cpu", "validate": False, "scheme": EXACT}
    onnxfq.quantize(source, tmp_path / "whole.onnx", **settings)
    from onnxfq.quantization.calibrate import Calibration

    end = Calibration.end

    def interrupted(self: Calibration, position: int, tell: object) -> None:
        if position == 1:
            raise KeyboardInterrupt
        end(self, position, tell)  # type: ignore[arg-type]

    monkeypatch.setattr(Calibration, "end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        onnxfq.quantize(source, tmp_path / "out.onnx", work_dir=tmp_path / "work", **settings)
    monkeypatch.undo()
    assert list((tmp_path / "work").glob("stage-*"))
    onnxfq.quantize(source, tmp_path / "out.onnx", work_dir=tmp_path / "work", resume=True, **settings)
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()


def test_a_weight_of_a_stage_that_others_do_not_share_is_solved_for_its_own_inputs(tmp_path: Path) -> None:
    body = "p = MatMul(x, w0) q = MatMul(x, w1) h = Tanh(p) r = MatMul(h, w0) y = Add(r, q)"
    constants = {"w0": weight(0) / 8, "w1": weight(1) / 8}
    done = calibrated(model(body, y="float[M, 64] y", constants=constants), tmp_path, tokens(120))
    assert {name: target.tokens for name, target in done.targets.items()} == {"p": 240, "q": 120, "r": 240}
    alone = calibrated(
        model("q = MatMul(x, w1) y = Relu(q)", y="float[M, 64] y", constants={"w1": weight(1) / 8}),
        tmp_path,
        tokens(120),
    )
    assert alone.targets["q"].relative_error == done.targets["q"].relative_error


def test_a_copy_for_each_reader_has_a_smaller_error_and_is_offered(tmp_path: Path) -> None:
    source = write(recurrent(layers=3), tmp_path / "in.onnx")
    seen, unseen = seen_and_unseen(300)
    settings: dict[str, Any] = {"calib": seen, "provider": "cpu", "validate": False, "scheme": EXACT}
    shared = onnxfq.quantize(source, tmp_path / "shared.onnx", **settings)
    copied = onnxfq.quantize(source, tmp_path / "copied.onnx", unshare=True, **settings)
    assert "1 weight is read by 3 nodes" in " ".join(shared.warnings)
    assert "`unshare=True`" in " ".join(shared.warnings)
    assert "unshare" not in " ".join(copied.warnings)
    assert {target.shares for target in copied.targets} == {""}
    assert {target.tokens for target in copied.targets} == {300}
    assert error(source, tmp_path / "copied.onnx", unseen) < error(source, tmp_path / "shared.onnx", unseen)
    more = sum(target.bytes for target in copied.targets) - sum(target.bytes for target in shared.targets)
    assert f"{more / 1000:.2f} kB more" in " ".join(shared.warnings)


def test_work_done_elsewhere_gives_the_same_bytes(tmp_path: Path) -> None:
    source = write(recurrent(), tmp_path / "in.onnx")
    settings: dict[str, Any] = {"calib": tokens(100, 80), "provider": "cpu", "validate": False, "scheme": EXACT}
    onnxfq.quantize(source, tmp_path / "here.onnx", **settings)
    with ThreadPoolExecutor(2) as executor:
        onnxfq.quantize(source, tmp_path / "elsewhere.onnx", executor=executor, **settings)
    assert (tmp_path / "here.onnx").read_bytes() == (tmp_path / "elsewhere.onnx").read_bytes()


def test_copies_count_once_in_what_the_source_held(tmp_path: Path) -> None:
    source = write(recurrent(layers=3), tmp_path / "in.onnx")
    settings: dict[str, Any] = {"provider": "cpu", "validate": False, "scheme": EXACT}
    shared = onnxfq.quantize(source, tmp_path / "shared.onnx", **settings)
    copied = onnxfq.quantize(source, tmp_path / "copied.onnx", unshare=True, **settings)
    assert copied.size.target_float_bytes == shared.size.target_float_bytes
    assert copied.size.target_weights == shared.size.target_weights
    assert sum(target.float_bytes for target in copied.targets) == copied.size.target_float_bytes
    assert "different schemes" not in " ".join(copied.warnings)
