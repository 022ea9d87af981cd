"""Models run piece by piece give what they give as a whole, from one piece's memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import onnxfq
from onnxfq.calibration.pieces import Pieces, Runtime
from onnxfq.errors import DataError
from onnxfq.feeds import Feed, generate
from onnxfq.graph import Graph, loaded_bytes
from onnxfq.metrics.output_accuracy import OutputAccuracy
from onnxfq.session import Session
from support import models
from support.models import Array
from tools.generate_decoder import Decoder, write_decoder

OPT = Path(__file__).resolve().parents[2] / "models" / "opt-4m" / "model.onnx"


def pieces(model: Path, folder: Path, memory: int, feeds: list[Feed] | None = None) -> tuple[Pieces, list[Feed]]:
    graph = Graph.load(model)
    given = feeds or list(generate(graph.signature, samples=3, seq_len=9, seed=1, shortest=4))
    folder.mkdir(exist_ok=True)
    return Pieces(graph, given, Runtime("cpu", 1, memory, folder)), given


def same(got: dict[str, Array], wanted: dict[str, Array]) -> None:
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert got[name].dtype == value.dtype
        np.testing.assert_allclose(
            got[name].astype(np.float64), value.astype(np.float64), rtol=1e-3, atol=2e-3 * np.abs(value).max()
        )


DECODERS = {
    "opt": Decoder("opt", kv_heads=4, layers=3, dtype="float32"),
    "llama": Decoder(layers=3, files=2),
    "tied": Decoder(layers=2, tied=True, dtype="float32"),
}


@pytest.mark.parametrize("memory", [0, 200_000, 10**9])
@pytest.mark.parametrize("kind", DECODERS)
def test_outputs_are_those_of_the_whole_model(tmp_path: Path, kind: str, memory: int) -> None:
    model = write_decoder(tmp_path, DECODERS[kind])
    run, feeds = pieces(model, tmp_path / "kept", memory)
    calls: list[None] = []
    run.run(lambda: calls.append(None))
    assert len(calls) == run.runs
    assert (run.runs == len(feeds)) == (memory == 10**9)
    assert memory or any((tmp_path / "kept").iterdir())  # what does not fit in memory
    session = Session(model)
    for sample, feed in enumerate(feeds):
        same(run.outputs(sample), session.run(feed))
    run.close()
    assert not any((tmp_path / "kept").iterdir())


def test_a_real_model_in_pieces(tmp_path: Path) -> None:
    run, feeds = pieces(OPT, tmp_path / "kept", 4_000_000)
    run.run()
    assert run.runs > 5 * len(feeds)
    session = Session(OPT)
    for sample, feed in enumerate(feeds):
        same(run.outputs(sample), session.run(feed))


def test_outputs_that_need_no_weights_come_too(tmp_path: Path) -> None:
    """An input handed through, a constant, a value used both inside and outside, in pieces of one product each."""
    body = "a = MatMul(x, w) b = MatMul(a, v) fixed = Neg(w) through = Identity(x)"
    outputs = "float[n, 32] a, float[n, 32] b, float[32, 32] fixed, float[n, 32] through"
    square = np.eye(32, dtype=np.float32) * 2
    model = models.write(models.model(body, x="float[n, 32] x", y=outputs, w=square, v=square), tmp_path / "m.onnx")
    feed = {"x": np.arange(64, dtype=np.float32).reshape(2, 32)}
    run, _ = pieces(model, tmp_path / "kept", 0, [feed])
    run.run()
    same(run.outputs(0), Session(model).run(feed))


def test_samples_must_be_alike(tmp_path: Path) -> None:
    proto = models.model("y = Relu(x)", x="float x", y="float y")
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.ClearField("shape")
    model = models.write(proto, tmp_path / "m.onnx")
    feeds: list[Feed] = [{"x": np.zeros(3, np.float32)}, {"x": np.zeros((3, 1), np.float32)}]
    run, _ = pieces(model, tmp_path / "kept", 0, feeds)
    with pytest.raises(DataError, match="numbers of dimensions"):
        run.run()


def figures(outputs: tuple[OutputAccuracy, ...]) -> list[float]:
    return [o.relative_mse or 0.0 for o in outputs]


def test_a_model_larger_than_the_memory_is_compared_but_not_timed(tmp_path: Path) -> None:
    settings = {"provider": "cpu", "seq_len": 16, "samples": 4}
    whole = onnxfq.quantize(OPT, tmp_path / "whole.onnx", **settings)  # type: ignore[arg-type]
    parts = onnxfq.quantize(OPT, tmp_path / "parts.onnx", memory="1MB", min_speedup=0.1, max_error=1.0, **settings)  # type: ignore[arg-type]
    assert (tmp_path / "parts.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()
    assert whole.latency
    assert not parts.latency
    assert any(w.startswith("Speed was not measured") for w in parts.warnings)
    assert not any(w.startswith("Speed was not measured") for w in whole.warnings)
    assert [o.name for o in parts.outputs] == [o.name for o in whole.outputs]
    np.testing.assert_allclose(figures(parts.outputs), figures(whole.outputs), rtol=0.05)
    speed, error = sorted(parts.gates, key=lambda gate: gate.name, reverse=True)
    assert (speed.measured, speed.passed, error.passed) == (None, False, True)


MEASURED = """
import sys
from pathlib import Path
import onnxfq
settings = {"algorithm": "rtn", "provider": "cpu", "seq_len": 8, "samples": 2}
onnxfq.quantize(sys.argv[1], sys.argv[2], memory=int(sys.argv[3]), **settings)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_below_that_of_the_model(tmp_path: Path) -> None:
    """13 MB of weights a layer: with all of them loaded the process would be larger by far."""
    decoder = Decoder(layers=8, hidden=512, inner=1408, heads=8, kv_heads=8, vocab=1000, dtype="float32")
    model = write_decoder(tmp_path / "source", decoder)
    assert loaded_bytes(Graph.load(model), widens=True) > 200e6
    peaks = []
    small = write_decoder(tmp_path / "small", Decoder(dtype="float32"))  # compilers take memory
    for source, name, memory in ((small, "compiled", 1000), (model, "pieces", 4 * 10**7), (model, "whole", 10**10)):
        command = [sys.executable, "-c", MEASURED, str(source), str(tmp_path / f"{name}.onnx"), str(memory)]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) * 1024)
    assert peaks[1] < peaks[2] - 90e6
