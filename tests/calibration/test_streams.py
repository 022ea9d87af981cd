"""Segments against the whole model, in both streams."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from onnxfq.calibration.pieces import Runtime
from onnxfq.calibration.segments import Segment, cut
from onnxfq.calibration.stages import Stage, find_stages
from onnxfq.calibration.streams import Residual, Streams
from onnxfq.graph import Flow, Graph, TensorFile, save
from onnxfq.quantization.assign import Planned
from onnxfq.rules import Target
from onnxfq.scheme import Scheme
from onnxfq.solvers import make_solver
from onnxfq.statistics import Statistics
from support.models import Array, model, write, write_external
from support.planned import planned, put, targets_of

SCHEME = Scheme(activations="float")
Feed = Mapping[str, Array]


def weight(seed: int, k: int = 64, n: int = 64) -> Array:
    return np.random.default_rng(seed).standard_normal((k, n)).astype(np.float32) / np.float32(8)


def residual() -> onnx.ModelProto:
    """Two blocks with shared inputs, residuals, a mask computed once, and an output nothing is calibrated for."""
    return model(
        "zero = Sub(x, x) shape = Shape(x) ones = ConstantOfShape <value = float[1] {1}> (shape) x1 = Add(x, zero) "
        "q = MatMul(x1, wq) k = MatMul(x1, wk) s = Mul(q, k) t = Tanh(s) o = MatMul(t, wo) r = Add(o, x1) "
        "m = Mul(r, ones) g = Gemm(m, wg, bg) e = Relu(g) d = MatMul(e, wd) y = Add(d, r) side = Exp(q)",
        y="float[M, 64] y, float[M, 64] side",
        wq=weight(0),
        wk=weight(1),
        wo=weight(2),
        wg=weight(3, 64, 128),
        bg=weight(4, 1, 128)[0],
        wd=weight(5, 128),
    )


@dataclass
class Setting:
    """A model being calibrated, with everything its streams need."""

    graph: Graph
    flow: Flow
    targets: list[Target]
    planned: list[Planned]
    stages: list[Stage]
    streams: Streams
    tensor_file: TensorFile

    def quantize(self, stage: Stage) -> None:
        for index in stage.targets:
            target = self.targets[index]
            q = make_solver("rtn").solve(target.load(), SCHEME, None, scale_type=target.scale_type)
            put(self.graph, self.planned[index], q, self.tensor_file)


@contextmanager
def setting(
    path: Path,
    feeds: Sequence[Feed],
    memory: int = 1 << 30,
    threads: int | None = None,
    *,
    residuals: Sequence[Residual | None] = (),
    held: Sequence[int] = (),
) -> Iterator[Setting]:
    graph = Graph.load(path)
    flow = Flow(graph)
    targets, (plans, _) = targets_of(graph), planned(graph, SCHEME, allow_slow=True)
    stages = [stage for stage in find_stages(flow, targets) if stage.source]
    points = [[targets[i].node.outputs[0] for i in stage.targets] for stage in stages]
    with tempfile.TemporaryDirectory() as folder, TensorFile(path.with_name("tensor_file")) as tensor_file:
        runtime = Runtime("cpu", threads, memory, Path(folder))
        given = [dict(feed) for feed in feeds]
        streams = Streams(graph, flow, stages, points, given, runtime, residuals=residuals, held=held)
        yield Setting(graph, flow, targets, plans, stages, streams, tensor_file)
        streams.close()
        assert not list(Path(folder).iterdir())


def samples(*lengths: int) -> list[Feed]:
    rng = np.random.default_rng(7)
    return [{"x": rng.standard_normal((length, 64)).astype(np.float32)} for length in lengths]


def values(path: Path, feed: Feed, names: Sequence[str]) -> list[Array]:
    """Inner values of a whole model, of one file alone."""
    proto = onnx.load(path)
    present = {o.name for o in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(list(names), dict(feed)))


def grams(path: Path, feeds: Sequence[Feed], source: str) -> Array:
    rows = np.concatenate([values(path, feed, [source])[0].reshape(-1, 64) for feed in feeds]).astype(np.float64)
    return np.asarray(rows.T @ rows / len(rows))


def gram_of(statistics: Statistics) -> Array:
    assert statistics.gram is not None
    return statistics.gram


def calibrate(here: Setting) -> list[Statistics]:
    """Run all stages, quantizing each after its statistics are known."""
    found = []
    for index, stage in enumerate(here.stages):
        statistics = here.streams.advance(index, here.tensor_file, None, lambda: None)
        assert statistics is not None
        found.append(statistics)
        here.quantize(stage)
    here.streams.finish(here.tensor_file, lambda: None)
    return found


def test_targets_that_read_one_tensor_are_one_stage(tmp_path: Path) -> None:
    with setting(write(residual(), tmp_path / "m.onnx"), samples(3)) as here:
        assert [(s.source, [here.targets[i].node.outputs[0] for i in s.targets]) for s in here.stages] == [
            ("x1", ["q", "k"]),
            ("t", ["o"]),
            ("m", ["g"]),
            ("e", ["d"]),
        ]


@pytest.mark.parametrize("external", [False, True], ids=["inline", "external"])
@pytest.mark.parametrize("memory", [0, 1 << 30], ids=["spilled", "in memory"])
def test_both_streams_are_those_of_whole_models(tmp_path: Path, external: bool, memory: int) -> None:
    path = (write_external if external else write)(residual(), tmp_path / "m.onnx")
    feeds = samples(3, 9, 3)
    with setting(path, feeds, memory) as here:
        found = calibrate(here)
        here.graph.finish()
        save(here.graph, tmp_path / "out.onnx", here.tensor_file)
        for stage, statistics in zip(here.stages, found, strict=True):
            if stage.source == "e":  # 128 wide
                continue
            assert statistics.gram is not None
            np.testing.assert_allclose(
                statistics.gram, grams(tmp_path / "out.onnx", feeds, stage.source), rtol=1e-4, atol=1e-6
            )
            assert statistics.tokens == 15
        for name, error in here.streams.errors.items():
            before = np.concatenate([values(path, feed, [name])[0] for feed in feeds]).astype(np.float64)
            after = np.concatenate([values(tmp_path / "out.onnx", feed, [name])[0] for feed in feeds])
            relative = ((before - after) ** 2).sum() / (before**2).sum()
            assert error.relative == pytest.approx(relative, rel=1e-3), name
        assert set(here.streams.errors) == {"q", "k", "o", "g", "d"}


def test_how_far_a_residual_is_off_is_measured_and_held_back_samples_stay_apart(tmp_path: Path) -> None:
    path, feeds = write(residual(), tmp_path / "m.onnx"), samples(3, 9, 4, 5)
    residuals = [None, Residual(2, ("x1",), 64), None, Residual(4, ("r",), 64)]
    with setting(path, feeds, residuals=residuals, held=[1]) as here:
        found = calibrate(here)
        here.graph.finish()
        save(here.graph, tmp_path / "out.onnx", here.tensor_file)
    before, after = ([values(p, feed, ["e", "r"]) for feed in feeds] for p in (path, tmp_path / "out.onnx"))
    off = [(x[1] - y[1]).astype(np.float64) for x, y in zip(before, after, strict=True)]
    counted = [0, 2, 3]
    drift = sum(off[i].T @ after[i][0] for i in counted) / 12
    assert [statistics.tokens for statistics in found] == [12] * 4
    assert found[1].drift is None, "nothing before it is quantized that its residual reads"
    np.testing.assert_allclose(found[3].drift, drift, rtol=1e-3, atol=1e-7)  # type: ignore[arg-type]
    mean = sum(off[i].sum(axis=0) for i in counted) / 12
    np.testing.assert_allclose(found[3].drift_mean, mean, rtol=1e-3, atol=1e-7)  # type: ignore[arg-type]
    held = found[3].held
    assert held is not None
    np.testing.assert_allclose(held.inputs, after[1][0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(held.float_inputs, before[1][0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(held.drift, off[1], rtol=1e-3, atol=1e-6)  # type: ignore[arg-type]


def test_samples_side_by_side_give_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxfq.calibration.side_by_side.thread_count", lambda: 4)
    found, errors = list[list[Statistics]](), list[dict[str, float]]()
    for threads in (1, 4):
        folder = tmp_path / str(threads)
        folder.mkdir()
        with setting(write(residual(), folder / "m.onnx"), samples(*range(1, 30)), threads=threads) as here:
            found.append(calibrate(here))
            errors.append({name: error.relative for name, error in here.streams.errors.items()})
    assert errors[0] == errors[1]
    for alone, together in zip(*found, strict=True):
        for name in ("tokens", "gram", "cross", "mean", "float_mean", "min", "max"):
            np.testing.assert_array_equal(getattr(alone, name), getattr(together, name))


def test_a_held_back_sample_may_have_no_rows(tmp_path: Path) -> None:
    path, feeds = write(residual(), tmp_path / "m.onnx"), samples(3, 0, 4)
    with setting(
        path, feeds, residuals=[None, Residual(2, ("x1",), 64), None, Residual(4, ("r",), 64)], held=[1]
    ) as here:
        found = [here.streams.advance(index, here.tensor_file, 32, lambda: None) for index in range(2)]
    assert [known and (known.tokens, known.held) for known in found] == [(7, None)] * 2


def test_every_step_runs_once_and_nothing_is_kept_too_long(tmp_path: Path) -> None:
    with setting(write(residual(), tmp_path / "m.onnx"), samples(3)) as here:
        segments = cut(here.flow, [*([s.source] for s in here.stages), ["d"]])
        ran = [name for segment in segments for step in segment.steps for name in step.writes]
        assert len(ran) == len(set(ran)), "nothing here is static"
        assert "side" not in ran, "nothing wants it"
        assert "y" not in ran
        present: set[str] = {"x"}
        for segment in segments:
            assert set(segment.reads) <= present
            present |= set(segment.keeps)
            present -= set(segment.frees)
        assert not present - {"x", "d"}


def test_what_is_kept_does_not_grow_with_the_number_of_layers(tmp_path: Path) -> None:
    layers = 6
    body = " ".join(
        f"u{i} = MatMul(x{i}, w) h{i} = Relu(u{i}) d{i} = MatMul(h{i}, v{i}) x{i + 1} = Add(x{i}, d{i})"
        for i in range(layers)
    )
    weights = {f"v{i}": weight(i) for i in range(layers)}
    proto = model(body, x="float[M, 64] x0", y=f"float[M, 64] x{layers}", w=weight(99), constants=weights)
    with setting(write(proto, tmp_path / "m.onnx"), [{"x0": samples(8)[0]["x"]}]) as here:
        kept = []
        for index, stage in enumerate(here.stages):
            here.streams.advance(index, here.tensor_file, None, lambda: None)
            here.quantize(stage)
            kept.append(here.streams.kept_bytes)
        assert max(kept[4:]) == max(kept[:4]) > 0


def test_what_depends_on_no_input_is_computed_again_instead_of_kept(tmp_path: Path) -> None:
    proto = model(
        "c = Constant <value = float[1] {2}> () d = Mul(c, c) a = Mul(x, d) h = MatMul(a, w0) b = Mul(h, d) "
        "y = MatMul(b, w1)",
        y="float[M, 64] y",
        w0=weight(0),
        w1=weight(1),
    )
    feeds = samples(4)
    path = write(proto, tmp_path / "m.onnx")
    with setting(path, feeds) as here:
        segments: list[Segment] = cut(here.flow, [[s.source] for s in here.stages])
        assert all("d" in {name for step in s.steps for name in step.writes} for s in segments)
        assert all("d" not in (*s.keeps, *s.reads) for s in segments)
        statistics = gram_of(calibrate(here)[0])
        np.testing.assert_allclose(statistics, grams(path, feeds, "a"), rtol=1e-5, atol=1e-6)


def test_the_first_stage_has_no_twin_and_later_ones_have(tmp_path: Path) -> None:
    with setting(write(residual(), tmp_path / "m.onnx"), samples(4, 5)) as here:
        found = calibrate(here)
        assert found[0].cross is None
        for statistics in found[1:]:
            assert statistics.cross is not None
            assert not np.allclose(statistics.cross, gram_of(statistics))


def test_subgraphs_see_the_quantized_values_they_capture(tmp_path: Path) -> None:
    proto = model(
        "h = MatMul(x, w0) "
        "z = If (c) <then_branch = a () => (float[M, 64] p) { p = Tanh(h) }, "
        "else_branch = b () => (float[M, 64] p) { p = Exp(h) }> "
        "y = MatMul(z, w1)",
        x="float[M, 64] x, bool c",
        y="float[M, 64] y",
        w0=weight(0),
        w1=weight(1),
    )
    path = write(proto, tmp_path / "m.onnx")
    feeds = [{**feed, "c": np.array(flag)} for feed, flag in zip(samples(6, 4), (True, False), strict=True)]
    with setting(path, feeds) as here:
        found = calibrate(here)
        here.graph.finish()
        save(here.graph, tmp_path / "out.onnx", here.tensor_file)
        np.testing.assert_allclose(gram_of(found[1]), grams(tmp_path / "out.onnx", feeds, "z"), rtol=1e-4, atol=1e-6)
