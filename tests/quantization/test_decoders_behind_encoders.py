"""Decoders that are given what the encoder beside them makes, instead of noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxfq
from onnxfq.feeds import Encoder, generate_behind
from onnxfq.graph import Graph
from onnxfq.session import Session
from support.models import EXACT, Array, model, write
from support.tiny import weight

WIDTH = 64


def encoder(width: int = WIDTH, output: str = "last_hidden_state") -> onnx.ModelProto:
    """Token embeddings of few directions: states that hang together, as no noise does."""
    rng = np.random.default_rng(0)
    table = (rng.standard_normal((50, 4)) @ rng.standard_normal((4, width))).astype(np.float32)
    return model(
        f"m = Cast<to = 1>(attention_mask) n = Unsqueeze(m, last) e = Gather(table, input_ids) {output} = Mul(e, n)",
        x="int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask",
        y=f"float[batch, sequence, {width}] {output}",
        constants={"table": table, "last": np.array([-1])},
    )


def decoder() -> onnx.ModelProto:
    constants: dict[str, Array] = {"w0": weight(0) / 8, "w1": weight(1) / 8, "table": weight(2)}
    return model(
        "t = Gather(table, input_ids) k = MatMul(encoder_hidden_states, w0) m = ReduceMean<axes = [1]>(k) "
        "s = Add(t, m) u = Identity(encoder_attention_mask) logits = MatMul(s, w1)",
        x="int64[batch, length] input_ids, int64[batch, read] encoder_attention_mask, "
        f"float[batch, read, {WIDTH}] encoder_hidden_states",
        y="float[batch, length, 64] logits",
        constants=constants,
    )


def export(folder: Path, beside: onnx.ModelProto) -> Path:
    folder.mkdir()
    write(beside, folder / "encoder_model.onnx")
    return write(decoder(), folder / "decoder_model.onnx")


def test_inputs_of_a_decoder_are_what_its_encoder_gives(tmp_path: Path) -> None:
    path = export(tmp_path / "in", encoder())
    source, signature = path.with_name("encoder_model.onnx"), Graph.load(path).signature
    opened = Encoder(Session(source), Graph.load(source).signature)

    def made(seed: int) -> list[dict[str, Array]]:
        return [dict(f) for f in generate_behind(opened, signature, samples=3, seq_len=20, seed=seed, shortest=8)]

    feeds = made(1)
    for feed in feeds:
        states, mask = feed["encoder_hidden_states"], feed["encoder_attention_mask"]
        assert states.shape[:2] == mask.shape
        assert np.linalg.matrix_rank(states[0]) <= 4
        assert Session(path).run(feed)["logits"].shape[1] == feed["input_ids"].shape[1]
    assert len({feed["encoder_hidden_states"].shape for feed in feeds}) > 1
    assert all((a[name] == b[name]).all() for a, b in zip(feeds, made(1), strict=True) for name in a)
    assert feeds[0]["encoder_hidden_states"].tobytes() != made(2)[0]["encoder_hidden_states"].tobytes()


def test_a_decoder_beside_its_encoder_is_calibrated_and_judged_on_real_states(tmp_path: Path) -> None:
    path = export(tmp_path / "in", encoder())
    settings: dict[str, Any] = {"provider": "cpu", "scheme": EXACT, "include": "k", "embeddings": "float"}
    free = onnxfq.quantize(path, tmp_path / "free.onnx", **settings)
    done = onnxfq.quantize(path, tmp_path / "out.onnx", calib="self", samples=16, seq_len=32, **settings)
    assert free.inputs == done.inputs == "generated behind the encoder"
    errors = [report.outputs[0].relative_mse for report in (done, free)]
    assert errors[0] is not None
    assert errors[1] is not None
    assert errors[0] < 0.1 * errors[1]  # inputs of few directions can be fitted; noise cannot


@pytest.mark.parametrize(
    ("beside", "fits"),
    [(encoder(width=32), False), (encoder(output="pooled"), True), (decoder(), False)],
    ids=["other width", "other name", "no encoder"],
)
def test_what_lies_beside_a_decoder_need_not_be_its_encoder(
    tmp_path: Path, beside: onnx.ModelProto, fits: bool
) -> None:
    path = export(tmp_path / "in", beside)
    report = onnxfq.quantize(path, tmp_path / "out.onnx", calib="self", samples=4, seq_len=16, provider="cpu")
    assert ("behind the encoder" in report.inputs) == fits
    assert report.outputs[0].relative_mse is not None


def test_an_encoder_that_cannot_serve_is_told(tmp_path: Path) -> None:
    path = export(tmp_path / "in", encoder(width=32))
    report = onnxfq.quantize(path, tmp_path / "out.onnx", provider="cpu")
    assert "MADE UP: states of an encoder are noise, for that beside the model was not used" in " ".join(
        report.warnings
    )
    path.with_name("encoder_model.onnx").unlink()
    alone = onnxfq.quantize(path, tmp_path / "alone.onnx", provider="cpu")
    assert "encoder" not in " ".join(alone.warnings)
