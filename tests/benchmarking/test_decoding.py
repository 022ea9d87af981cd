"""Runs whose values stay on the device give what plain runs give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxfq.arrays import Array
from onnxfq.benchmarking.decoding import Decoding, Repeated
from onnxfq.feeds import CausalLM, find_causal_lm
from onnxfq.graph import Graph
from onnxfq.providers import ProviderName
from onnxfq.session import Session, to_array
from tools.generate_decoder import Decoder, write_decoder

DECODERS = {
    "llama": Decoder(),
    "llama in float32": Decoder(dtype="float32"),
    "opt": Decoder("opt", kv_heads=4, dtype="float32"),
}
PROVIDERS = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.fixture(scope="module", params=DECODERS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("decoder"), DECODERS[request.param])


def writer_of(model: Path, provider: ProviderName = "cpu") -> CausalLM:
    found = find_causal_lm(Session(model, provider=provider), Graph.load(model).signature)
    assert found is not None
    assert found.cache
    return found


def plain(writer: CausalLM, prompt: Array, new: Array) -> list[Array]:
    """The logits of each new token, by runs through host memory."""
    _, cache = writer.scores(prompt, {})
    found = []
    for step in range(new.shape[1]):
        logits, cache = writer.scores(new[:, step : step + 1], cache)
        found.append(logits)
    return found


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("batch", "length"), [(1, 9), (3, 1)])
def test_decoding_gives_the_logits_of_plain_runs(model: Path, provider: ProviderName, batch: int, length: int) -> None:
    writer = writer_of(model, provider)
    text = np.random.default_rng(0).integers(256, size=(batch, length + 6))
    prompt, new = text[:, :length], text[:, length:]
    decoding = Decoding(writer, prompt, new)
    wanted = plain(writer, prompt, new)
    for _ in range(2):
        for logits in wanted:
            np.testing.assert_array_equal(decoding.step().astype(np.float32), logits)
        assert decoding.left == 0
        decoding.restart()
        assert decoding.left == 6


def test_the_cache_is_never_copied(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = writer_of(model)
    text = np.zeros((1, 8), np.int64)
    decoding = Decoding(writer, text[:, :4], text[:, 4:])
    taken: list[set[int]] = []
    given: list[set[int]] = []
    run = writer.session.run_bound

    def look(binding: object) -> object:
        given.append({value.data_ptr() for value in decoding._cache.values()})
        outputs = run(binding)
        taken.append({value.data_ptr() for value in outputs[1:]})
        return outputs

    monkeypatch.setattr(writer.session, "run_bound", look)
    for _ in range(4):
        decoding.step()
    assert given[1:] == taken[:-1]


def test_a_repeated_run_gives_what_a_plain_one_gives(model: Path) -> None:
    writer = writer_of(model)
    feed = writer.prompt(np.arange(10).reshape(2, 5))
    repeated, wanted = Repeated(writer.session, feed), writer.session.run(feed)
    for _ in range(2):
        found = repeated.run()
        assert found.keys() == wanted.keys()
        for name, value in found.items():
            np.testing.assert_array_equal(to_array(value), wanted[name])
