"""What `tools/generate_decoder.py` writes: real decoders in all but meaning, which onnxfq handles as such."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxfq
from onnxfq.arrays import Array
from tools.generate_decoder import Decoder, write_decoder

DECODERS = {
    "llama": Decoder(),
    "llama, tied, float32": Decoder(tied=True, dtype="float32", alignment=4096),
    "opt in three files": Decoder("opt", kv_heads=4, files=3),
    "opt, tied, unaligned": Decoder("opt", kv_heads=4, tied=True, dtype="float32", alignment=1),
}


@pytest.fixture(scope="module", params=DECODERS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("decoder"), DECODERS[request.param])


def run(session: ort.InferenceSession, ids: Array, past: list[Array]) -> list[Array]:
    """Logits and the cache after some tokens."""
    before = past[0].shape[2] if past else 0
    total = before + ids.shape[1]
    own = {
        "input_ids": ids,
        "attention_mask": np.ones((1, total), np.int64),
        "position_ids": np.arange(before, total)[None],
    }
    feed, cache = {}, iter(past)
    for spec in session.get_inputs():
        if spec.name in own:
            feed[spec.name] = own[spec.name]
        else:
            empty = np.zeros((1, spec.shape[1], 0, spec.shape[-1]), np.float16 if "16" in spec.type else np.float32)
            feed[spec.name] = next(cache, empty)
    return list(session.run(None, feed))


def test_the_cache_stands_for_the_tokens_before(model: Path) -> None:
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    ids = np.random.default_rng(0).integers(0, 256, (1, 20))
    whole, first = run(session, ids, []), run(session, ids[:, :12], [])
    second = run(session, ids[:, 12:], first[1:])
    logits = np.concatenate([first[0], second[0]], axis=1).astype(np.float32)
    assert np.isfinite(logits).all()
    assert logits.std() > 0.5
    np.testing.assert_allclose(logits, whole[0].astype(np.float32), atol=0.02)
    for stepwise, at_once in zip(second[1:], whole[1:], strict=True):
        np.testing.assert_allclose(stepwise.astype(np.float32), at_once.astype(np.float32), atol=0.02)


def test_all_its_matrix_products_are_quantized(model: Path, tmp_path: Path) -> None:
    report = onnxfq.quantize(model, tmp_path / "out.onnx", provider="cpu", validate=False)
    nodes = [node.op_type for node in onnx.load(str(model), load_external_data=False).graph.node]
    attention = 2 * Decoder().layers  # products of activations
    products = [target for target in report.targets if target.op_type == "MatMul"]
    assert len(products) == nodes.count("MatMul") - attention
    assert {target.op_type for target in report.targets} == {"MatMul", "Gather"}


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    one, other = write_decoder(tmp_path / "one", Decoder()), write_decoder(tmp_path / "other", Decoder())
    changed = write_decoder(tmp_path / "changed", Decoder(seed=1))
    for name in ("model.onnx", "model.onnx_data"):
        assert one.with_name(name).read_bytes() == other.with_name(name).read_bytes()
    assert one.with_name("model.onnx_data").read_bytes() != changed.with_name("model.onnx_data").read_bytes()
