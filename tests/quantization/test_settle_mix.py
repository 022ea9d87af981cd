"""Mixes of bits within a budget: the size is kept, and no mix is written that is worse than one scheme of that size."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxfq
from onnxfq import Report
from onnxfq.arrays import Float32Array
from onnxfq.errors import UsageError
from onnxfq.progress import Progress
from onnxfq.quantization import announce_cost, settle_mix, solve_weights
from onnxfq.quantization.keep_better import Judgement
from onnxfq.quantization.mix_exchange import Exchange
from onnxfq.quantization.mix_sensitivities import Sensitivities
from onnxfq.quantization.settle_mix import Made, MixSearch
from onnxfq.quantization.solve import solve
from onnxfq.quantization.solved_weight import SolvedWeight, WeightTask
from onnxfq.reports.mix import MIXED, UNIFORM
from onnxfq.scheme import Scheme
from support.models import Array, model, write
from support.tiny import entries, inspect, pair, quantize, weight


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxfq.quantization.validate.LATENCY_SECONDS", 0.01)


def samples(count: int = 48) -> list[dict[str, Array]]:
    """Inputs that lie in a few directions."""
    rng, directions = np.random.default_rng(0), np.random.default_rng(8).standard_normal((8, 64))
    return [{"x": (rng.standard_normal((4, 8)) @ directions).astype(np.float32)} for _ in range(count)]


def branched(path: Path) -> Path:
    """Two products of one input: what is added of the second to the first counts a hundredth."""
    body = "a = MatMul(x, w0) b = MatMul(x, w1) s = Mul(b, small) y = Add(a, s)"
    small = np.array([0.01], np.float32)
    return write(model(body, y="float[M, 64] y", w0=weight(0), w1=weight(1), small=small), path)


def files_of(report: Report) -> int:
    assert report.output is not None
    path = Path(report.output)
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


SETTINGS: dict[str, Any] = {"provider": "cpu", "samples": 32, "algorithm": "rtn"}


@pytest.mark.parametrize("changes", [{"calib": samples()}, {"calib": samples(), "algorithm": "auto"}, {}])
@pytest.mark.parametrize("target_size", ["24%", "7kB", 7000])
def test_weights_that_count_get_more_bits_within_the_size(
    tmp_path: Path, target_size: str | int, changes: dict[str, Any]
) -> None:
    source = branched(tmp_path / "m.onnx")
    report = onnxfq.quantize(source, tmp_path / "o.onnx", target_size=target_size, **{**SETTINGS, **changes})
    (mix,) = report.mixes
    assert mix.limit_bytes is not None
    assert files_of(report) == report.size.output_bytes <= mix.limit_bytes
    assert mix.uniform_bytes <= mix.limit_bytes
    by_name = {target.name: target.bits for target in report.targets}
    bits = [target.bits for target in report.targets]
    assert mix.kept == MIXED, by_name
    assert bits[0] > bits[1]
    assert mix.mix_error is not None
    assert mix.uniform_error is not None
    assert mix.mix_error < mix.uniform_error
    assert report.outputs[0].relative_mse == pytest.approx(mix.mix_error, rel=1e-6)
    assert sum(share.targets for share in mix.shares) == 2
    assert report.scheme == f"mixed: {'; '.join(f'1 weight in {share.scheme}' for share in mix.shares)}"
    assert entries(tmp_path) == ["m.onnx", "o.onnx"]


@pytest.mark.parametrize("algorithm", ["gptq", "awq"])
def test_what_is_put_together_is_what_was_solved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    """Biases that moved, inputs that were scaled: the same outputs as those of the file that the run wrote."""
    body = """
        n = LayerNormalization(x, gamma, beta) h = MatMul(n, w0) a = Add(h, b0) r = Relu(a)
        g = Gemm(r, w1, b1) y = Add(g, x)
    """
    rows = {"gamma": weight(5, 1)[0] + 2, "beta": weight(6, 1)[0], "b0": weight(7, 1)[0], "b1": weight(8, 1)[0]}
    source = write(model(body, y="float[M, 64] y", w0=weight(0), w1=weight(1), **rows), tmp_path / "m.onnx")
    made: list[float] = []
    found: list[float] = []
    make, measure = MixSearch._make, Sensitivities.measure

    def making(self: MixSearch, *arguments: Any) -> Made:
        file = make(self, *arguments)
        made.append(file.error)
        return file

    def measuring(exchange: Exchange, progress: Progress) -> Sensitivities:
        known = measure(exchange, progress)
        found.extend((known.base, known.propose([part.smallest for part in known.parts]).error))
        return known

    monkeypatch.setattr(MixSearch, "_make", making)
    monkeypatch.setattr(Sensitivities, "measure", measuring)
    settings = {**SETTINGS, "algorithm": algorithm}
    onnxfq.quantize(source, tmp_path / "o.onnx", target_size="24%", calib=samples(), **settings)
    assert found[0] == pytest.approx(made[0], rel=1e-5)
    assert found[1] > 10 * found[0]


def test_whatever_its_scheme_a_weight_makes_up_for_what_is_wrong_in_its_residual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "h = MatMul(x, w0) r = Relu(h) g = MatMul(r, w1) y = Add(g, h)"
    source = write(model(body, y="float[M, 64] y", w0=weight(0), w1=weight(1)), tmp_path / "m.onnx")
    solved, tuned = list[tuple[bool, Scheme]](), list[int]()

    def solving(tasks: Mapping[int, WeightTask], *arguments: Any) -> Iterator[tuple[int, SolvedWeight | None]]:
        solved.extend((task.drifts, task.scheme) for index, task in tasks.items() if index == 1)
        return solve(tasks, *arguments)

    def choosing(rows: Float32Array, *_: Any, **__: Any) -> None:
        tuned.append(len(rows))

    monkeypatch.setattr(solve_weights, "solve", solving)
    monkeypatch.setattr("onnxfq.solvers.gptq.choose_target", choosing)
    settings = {**SETTINGS, "algorithm": "gptq"}
    report = onnxfq.quantize(source, tmp_path / "o.onnx", target_size="24%", calib=samples(), **settings)
    calibrated = solved[:-1]  # the last is made without data, to compare
    assert len({scheme for _, scheme in calibrated}) > report.mixes[0].measured // 2
    assert all(drifts for drifts, _ in calibrated), calibrated
    assert len(tuned) == 2 * (len(calibrated) - report.mixes[0].measured // 2), "once a stage, not once a scheme"


def test_the_single_scheme_is_kept_where_the_mix_is_worse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever exchanges promised: what counts are samples that neither calibrated nor chose."""
    source = branched(tmp_path / "m.onnx")
    monkeypatch.setattr(settle_mix, "compare_errors", lambda ours, other: Judgement("relative MSE", 0.2, 0.1))
    report = onnxfq.quantize(source, tmp_path / "o.onnx", target_size="24%", calib=samples(), **SETTINGS)
    (mix,) = report.mixes
    assert (mix.kept, mix.mix_error, mix.uniform_error) == (UNIFORM, 0.2, 0.1)
    assert {(t.bits, t.granularity) for t in report.targets} == {(4, 32)}
    assert report.scheme == mix.uniform
    assert report.size.output_bytes == mix.uniform_bytes


def test_it_is_chosen_and_judged_on_other_samples_than_those_that_calibrate(tmp_path: Path) -> None:
    report = onnxfq.quantize(branched(tmp_path / "m.onnx"), target_size="24%", calib=samples(64), **SETTINGS)
    assert (report.measured_on, report.outputs[0].samples, report.mixes[0].samples) == ("held-out", 16, 16)
    named = onnxfq.quantize(
        tmp_path / "m.onnx", target_size="24%", calib=samples(64), eval_data=samples(70)[64:], **SETTINGS
    )
    assert (named.measured_on, named.outputs[0].samples, named.mixes[0].samples) == ("held-out", 6, 32)


def test_the_smallest_file_that_keeps_an_error(tmp_path: Path) -> None:
    source = branched(tmp_path / "m.onnx")
    sizes = []
    for limit in (0.02, 0.0005):
        report = onnxfq.quantize(
            source, tmp_path / "o.onnx", target_size="smallest", max_error=limit, calib=samples(), **SETTINGS
        )
        assert report.passed, report.gates
        sizes.append(report.size.output_bytes)
        (mix,) = report.mixes
        assert str(mix).startswith("Smallest within the limit: ")
        assert mix.metric in ("relative MSE", "")
        if mix.mix_error is not None and mix.kept == "mix":
            assert report.gates[0].measured == pytest.approx(mix.mix_error, rel=1e-3)
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize(("limit", "told"), [(1e-9, "times what is allowed"), (0.0, "more than what"), (0.02, "")])
def test_a_limit_that_hardly_any_mix_keeps_is_told_before_single_weights_are_measured(
    tmp_path: Path, limit: float, told: str
) -> None:
    stages: list[str] = []
    report = onnxfq.quantize(
        branched(tmp_path / "m.onnx"),
        target_size="smallest",
        max_error=limit,
        calib=samples(),
        progress=lambda what, *_: stages.append(what),
        **SETTINGS,
    )
    remarks = [index for index, stage in enumerate(stages) if "hardly any mix keeps that" in stage]
    assert (len(remarks), report.passed) == ((1, False) if told else (0, True))
    for index in remarks:
        assert told in stages[index]
        assert index < stages.index("measuring what single weights do to the outputs")


def test_inspecting_shows_a_single_scheme_within_the_size(tmp_path: Path) -> None:
    source = branched(tmp_path / "m.onnx")
    for share, scheme in (("50%", (8, 128)), ("20%", (4, 32)), ("15%", (4, 128)), ("12%", (2, 32))):
        report = onnxfq.inspect(source, target_size=share, provider="cpu")
        assert {(t.bits, t.granularity) for t in report.targets} == {scheme}
        assert any("chosen weight by weight" in text for text in report.warnings)


def test_what_a_user_fixed_stays(tmp_path: Path) -> None:
    report = onnxfq.quantize(
        pair(tmp_path / "m.onnx"), schemes={"first": {"bits": 8, "block_size": 32}}, target_size="30%", **SETTINGS
    )
    assert next((t.bits, t.granularity) for t in report.targets) == (8, 32)
    with pytest.raises(UsageError, match="cannot be made as small"):
        onnxfq.inspect(tmp_path / "m.onnx", schemes={".": {"bits": 8}}, target_size="20%", provider="cpu")


def test_tables_of_embeddings_are_part_of_the_mix(tmp_path: Path) -> None:
    body = "e = Gather(table, ids) y = MatMul(e, w0)"
    proto = model(body, x="int64[M] ids", y="float[M, 64] y", table=weight(2, 400), w0=weight(0))
    source = write(proto, tmp_path / "m.onnx")
    report = onnxfq.quantize(source, tmp_path / "o.onnx", target_size="18%", **SETTINGS)
    table = next(t for t in report.targets if t.op_type == "Gather")
    assert (table.bits, report.size.output_bytes <= 0.18 * source.stat().st_size) == (4, True)
    with pytest.raises(UsageError, match="cannot be made as small"):
        onnxfq.inspect(source, embeddings="float", target_size="18%", provider="cpu")


def test_the_limit_of_a_folder_is_shared_out_as_its_models_are_large(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    for name in ("a", "b"):
        branched(tmp_path / "models" / f"{name}.onnx")
    report = onnxfq.quantize(tmp_path / "models", tmp_path / "out", target_size="15kB", **SETTINGS)
    assert [mix.model for mix in report.mixes] == ["a.onnx", "b.onnx"]
    assert all(mix.limit_bytes == 7500 for mix in report.mixes)
    assert report.size.output_bytes <= 15000
    assert Report.from_json(json.loads(json.dumps(report.to_json()))).mixes == report.mixes


def test_disk_and_time_are_told_for_all_that_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "a = MatMul(x, w0) b = MatMul(x, w1) s = Mul(b, small) y = Add(a, s)"
    small, w0, w1 = np.array([0.01], np.float32), weight(0, 256), weight(1, 256)
    proto = model(body, x="float[M, 256] x", y="float[M, 64] y", w0=w0, w1=w1, small=small)
    source = write(proto, tmp_path / "m.onnx")
    told, used, make = list[int](), list[int](), MixSearch._make

    def making(self: MixSearch, *arguments: Any) -> Made:
        made = make(self, *arguments)
        used.append(sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file() and file != source))
        return made

    monkeypatch.setattr(MixSearch, "_make", making)
    monkeypatch.setattr(announce_cost, "check_space", lambda _, wanted: told.append(wanted))
    stages: list[str] = []
    report = onnxfq.quantize(
        source, tmp_path / "o.onnx", target_size="22%", progress=lambda what, *_: stages.append(what), **SETTINGS
    )
    assert {"putting mixes together", "the mix: measuring", "comparing the mix with one scheme"} <= set(stages)
    assert report.size.output_bytes < max(used) <= told[0] < 2 * max(used)
    usual = onnxfq.inspect(source, provider="cpu", algorithm="rtn").estimate
    assert report.estimate.seconds - 2 == pytest.approx(7 * (usual.seconds - 2)), "five schemes, and two models"


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = branched(tmp_path / "m.onnx")
    arguments = (source, "-o", tmp_path / "o.onnx", "--target-size", "24%", "--algorithm", "rtn", "--provider", "cpu")
    assert quantize(*arguments, "--save-config", tmp_path / "used.toml") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Within 24%" in shown
    assert "of the weights in int8" in shown
    made = (tmp_path / "o.onnx").read_bytes()
    assert quantize(source, "-o", tmp_path / "o.onnx", "--config", tmp_path / "used.toml") == 0
    assert (tmp_path / "o.onnx").read_bytes() == made
    assert inspect(source, "--target-size", "2%", "--provider", "cpu") == 2
    assert "the smallest file has about" in " ".join(capsys.readouterr().err.split())
    assert quantize(source, "--target-size", "24%", "--bits", "4") == 2
    assert "--target-size chooses bits and block size" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"target_size": "smallest"}, "needs the error that is allowed"),
        ({"target_size": "0%"}, "more than 0%"),
        ({"target_size": "101%"}, "at most 100%"),
        ({"target_size": "much"}, "is no size"),
        ({"target_size": 0}, "more than 0"),
        ({"target_size": "25%", "validate": False}, "leaves out"),
        ({"target_size": "25%", "block_size": 32}, "chooses bits and block size"),
        ({"target_size": "25%", "format": "int8"}, "which the format int8 does not have"),
        ({"target_size": "25%", "format": "auto"}, "which the format auto does not have"),
        ({"target_size": "25%", "resume": True}, "keeps no finished work"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        onnxfq.inspect(pair(tmp_path / "m.onnx"), provider="cpu", **changes)
