"""Inputs that are made up so that the model runs on them; where none are found, the file is written all the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

import onnxfq
from onnxfq.errors import DataError
from onnxfq.feeds import fit_sizes
from onnxfq.quantization import original
from onnxfq.reports.report import Report
from onnxfq.signature import Signature
from support.models import Array, grid, model, normal, whole, write

WHOLE, PIECES = "2GB", "1kB"


def vision() -> onnx.ModelProto:
    """36 patches with positions: images of 96 x 96."""
    return model(
        "p = Conv<strides = [16, 16]>(pixel_values, k) f = Reshape(p, s) t = Transpose<perm = [0, 2, 1]>(f) "
        "a = Add(t, positions) y = MatMul(a, w)",
        x="float[batch, channels, height, width] pixel_values",
        y="float[batch, n, 64] y",
        k=normal(64, 3, 16, 16),
        s=whole(0, 64, -1),
        positions=normal(1, 36, 64),
        w=normal(64, 64),
    )


def sound() -> onnx.ModelProto:
    """Convolutions with strides, for which few samples are none."""
    return model(
        "u = Unsqueeze(input_values, one) a = Conv<strides = [5]>(u, k) b = Conv<strides = [4]>(a, l) "
        "t = Transpose<perm = [0, 2, 1]>(b) y = MatMul(t, w)",
        x="float[batch, sequence_length] input_values",
        y="float[batch, n, 64] y",
        one=whole(1),
        k=normal(8, 1, 10),
        l=normal(64, 8, 8),
        w=normal(64, 64),
    )


def decoder(more: str = "", output: str = "", **weights: Array) -> onnx.ModelProto:
    """Keys of a size that only shows behind cached tokens."""
    return model(
        "e = Gather(words, input_ids) h = MatMul(e, w) u = Unsqueeze(h, one) "
        "present_key = Concat<axis = 2>(past_key, u) y = MatMul(h, head)" + more,
        x="int64[batch, sequence] input_ids, float[batch, 1, past_sequence_length, kv_cache_dim] past_key",
        y="float[batch, sequence, 64] y, float[batch, 1, total, d] present_key" + output,
        constants=weights,
        words=normal(50, 64),
        one=whole(1),
        w=normal(64, 96),
        head=normal(96, 64),
    )


def never() -> onnx.ModelProto:
    """What is doubled is never one."""
    return model(
        "d = Concat<axis = 0>(x, x) h = Squeeze(d, zero) y = MatMul(h, w)",
        x="float[b, 3, height, width] x",
        y="float[c, n, 64] y",
        zero=whole(0),
        w=normal(64, 64),
    )


def run(proto: onnx.ModelProto, folder: Path, **settings: Any) -> Report:
    return onnxfq.quantize(write(proto, folder / "model.onnx"), folder / "out.onnx", algorithm="rtn", **settings)


def compared(report: Report) -> bool:
    return bool(report.outputs) and not any(warning.startswith("NOT COMPARED") for warning in report.warnings)


@pytest.mark.parametrize("kind", [vision, sound, decoder])
def test_sizes_are_found_and_the_file_is_compared(kind: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    report = run(kind(), tmp_path, max_error=9)
    assert compared(report)
    assert [gate.passed for gate in report.gates] == [True]
    assert report.outputs[0].samples == 8


def test_a_decoding_step_is_timed_where_the_size_of_keys_was_found(tmp_path: Path) -> None:
    report = run(decoder(), tmp_path)
    assert [latency.case for latency in report.latency] == ["prefill", "decode, 1 token"]


def test_a_decoding_step_on_which_a_model_does_not_run_is_told_and_nothing_else_is_lost(tmp_path: Path) -> None:
    more = " n = Shape<start = 2, end = 3>(past_key) i = Mul(n, thousand) z = Gather(places, i)"
    proto = decoder(more, ", float[one, 8] z", thousand=whole(1000), places=normal(9, 8))
    report = run(proto, tmp_path)
    assert compared(report)
    assert [latency.case for latency in report.latency] == ["first sample"]
    (note,) = [warning for warning in report.warnings if warning.startswith("Decoding was not timed")]
    assert "Gather" in note


def test_a_configuration_beside_the_model_saves_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxfq.feeds.size_search.MOST_TRIALS", 0)
    (tmp_path / "config.json").write_text(json.dumps({"image_size": 96}))
    assert compared(run(vision(), tmp_path))


def test_a_model_run_piece_by_piece_takes_configured_sizes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"image_size": 96}))
    report = run(vision(), tmp_path, memory=PIECES)
    assert compared(report)
    assert not report.latency


@pytest.mark.parametrize("memory", [WHOLE, PIECES])
def test_where_no_sizes_are_found_the_file_is_written_and_gates_fail(memory: str, tmp_path: Path) -> None:
    report = run(never(), tmp_path, memory=memory, max_error=9)
    assert (tmp_path / "out.onnx").is_file()
    assert report.targets
    assert not report.outputs
    assert [gate.passed for gate in report.gates] == [False]
    (note,) = [warning for warning in report.warnings if warning.startswith("NOT COMPARED")]
    assert "does not run on made-up inputs" in note
    assert "calib=FILE" in note
    assert ("other sizes" in note) == (memory == WHOLE)


def test_a_model_that_makes_its_own_data_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def counted(*arguments: Any) -> Signature:
        asked.append(arguments)
        return fit_sizes(*arguments)

    monkeypatch.setattr(original, "fit_sizes", counted)
    path = write(vision(), tmp_path / "model.onnx")
    report = onnxfq.quantize(path, tmp_path / "out.onnx", calib="self", samples=4, algorithm="gptq")
    assert {target.tokens for target in report.targets if target.operator == "MatMulNBits"} == {4 * 36}
    assert compared(report)
    assert len(asked) == 1


def test_a_model_that_makes_its_own_data_and_runs_on_none_is_refused(tmp_path: Path) -> None:
    path = write(never(), tmp_path / "model.onnx")
    with pytest.raises(DataError, match=r"does not run on made-up inputs .*`calib=FILE`"):
        onnxfq.quantize(path, tmp_path / "out.onnx", calib="self", samples=4)


def test_where_time_ends_the_search_that_is_told_and_a_model_that_makes_its_own_data_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxfq.feeds.size_search.MOST_SECONDS", -1.0)
    report = run(never(), tmp_path)
    (note,) = [warning for warning in report.warnings if warning.startswith("NOT COMPARED")]
    assert "when the time for that was over" in note
    with pytest.raises(DataError, match="a faster machine may find some"):
        onnxfq.quantize(tmp_path / "model.onnx", tmp_path / "own.onnx", calib="self", samples=4)


def test_samples_that_a_model_makes_itself_fit_into_the_memory_together(tmp_path: Path) -> None:
    source = write(
        model("y = MatMul(x, w)", x="float[4000, 64] x", y="float[4000, 32] y", w=grid()), tmp_path / "in.onnx"
    )
    report = onnxfq.quantize(source, tmp_path / "out.onnx", calib="self", samples=16, memory=6_000_000, provider="cpu")
    assert "MADE UP: 5 samples instead of 24, for one takes 1.02 MB" in " ".join(report.warnings)
    assert report.targets[0].tokens <= 5 * 4000
