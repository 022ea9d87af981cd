"""Formats that are chosen for each weight: never slower than float, near the fastest, and near the usual error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxfq.errors import SchemeError, UsageError
from onnxfq.graph import Graph
from onnxfq.machines import AUTO, MACHINES, Machine
from onnxfq.pipeline import inspect, quantize
from onnxfq.quantization.choose_format import (
    AutoFormat,
    FormatErrors,
    candidates_for,
    choose_format,
)
from onnxfq.quantization.expected_speed import Forecast
from onnxfq.quantization.find import find
from onnxfq.rules import Target
from onnxfq.rules.known_speeds import packaged
from onnxfq.rules.speed_table import MeasuredFormat, SpeedTable
from onnxfq.scheme import Scheme
from onnxfq.usage import USAGES, Usage
from support import models
from support.models import model

USUAL, FINE, COARSE = Scheme(), Scheme(8, 128), Scheme(4, 128)
K = 256


def grid(n: int = 256) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(n).standard_normal((K, n)).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    proto = model(
        "[up] a = MatMul (x, v)  [down] y = MatMul (a, w)",
        x=f"float[M, {K}] x",
        y=f"float[M, {K}] y",
        v=grid(),
        w=grid(K),
    )
    return models.write(proto, tmp_path / "in.onnx")


@pytest.fixture
def target(path: Path) -> Target:
    return find(Graph.load(path), (), ())[0][0][1]


def chosen(target: Target, speeds: Mapping[Scheme, float | None], errors: Mapping[Scheme, float]) -> Scheme | None:
    candidates = list(speeds)
    return choose_format(target, USUAL, candidates, lambda s, _: speeds[s], lambda s, _: errors[s]).scheme


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_ever_slower_than_float_nor_much_worse_than_usual(target: Target, seed: int) -> None:
    rng = np.random.default_rng(seed)
    candidates = candidates_for(USUAL, ("matmulnbits",))
    speeds = {scheme: float(rng.uniform(0.3, 1.8)) for scheme in candidates}
    errors = {scheme: float(rng.uniform(0.001, 0.1)) for scheme in candidates}
    found = chosen(target, speeds, errors)
    fast = [scheme for scheme in candidates if speeds[scheme] >= 1]
    if found is None:
        assert not fast
        return
    limit = 2 * max(errors[USUAL], min(errors[scheme] for scheme in fast))
    assert speeds[found] >= 1
    assert errors[found] <= limit
    assert speeds[found] >= 0.97 * max(speeds[scheme] for scheme in fast if errors[scheme] <= limit)


def test_the_fastest_wins_and_of_those_as_fast_the_nearest() -> None:
    errors = {USUAL: 0.01, FINE: 0.001, COARSE: 0.015}
    assert chosen(None, {USUAL: 2.0, FINE: 1.0, COARSE: 3.0}, errors) is COARSE  # type: ignore[arg-type]
    assert chosen(None, {USUAL: 2.0, FINE: 2.97, COARSE: 3.0}, errors) is FINE  # type: ignore[arg-type]
    assert chosen(None, {USUAL: 2.0, FINE: 1.0, COARSE: 3.0}, {**errors, COARSE: 0.03}) is USUAL  # type: ignore[arg-type]


def test_what_cannot_win_stays_in_float_with_the_figure(target: Target) -> None:
    slow = {USUAL: 0.9, FINE: 0.72, COARSE: 0.95}
    found = choose_format(target, USUAL, list(slow), lambda s, _: slow[s], lambda s, _: 0.0)
    assert found.scheme is None
    assert found.times_faster == 0.95
    assert found.reason == f"no format is faster than float here; the best, {COARSE}, runs at 0.95x"
    unknown = choose_format(target, USUAL, [USUAL], lambda s, _: None, lambda s, _: 0.0)
    assert (unknown.scheme, unknown.times_faster) == (None, None)
    assert "no table says" in unknown.reason


def test_candidates_keep_to_what_was_asked_for() -> None:
    assert candidates_for(USUAL, ("matmulnbits",))[0] == USUAL
    symmetric = candidates_for(Scheme(symmetric=True), ("matmulnbits",))
    assert all(scheme.symmetric for scheme in symmetric)
    assert {scheme.block_size for scheme in symmetric} == {32, 64, 128}
    floating = candidates_for(Scheme(activations="float"), ("matmulnbits",))
    assert all(scheme.activations == "float" for scheme in floating)


def test_a_choice_is_made_once(target: Target) -> None:
    asked: list[Scheme] = []

    def speed(scheme: Scheme, _: Target) -> float:
        asked.append(scheme)
        return 2.0

    auto = AutoFormat(("matmulnbits",), lambda s, _: s.bits == 4, speed, lambda s, _: 0.1)
    first = auto.choose(target, USUAL)
    assert auto.choose(target, FINE) is first
    assert asked
    assert all(scheme.bits == 4 for scheme in asked)  # those that do not fit are not asked for


def test_errors_without_data_fall_with_bits_and_grow_with_blocks(target: Target) -> None:
    errors = FormatErrors({}, lambda _: None)
    fine, usual, coarse = (errors.error(scheme, target) for scheme in (FINE, USUAL, COARSE))
    assert 0 < fine < usual < coarse < 0.05
    weight = target.load()
    outliers = np.ones(K)
    outliers[0] = 1e6  # an input that alone counts
    weighed = FormatErrors({}, lambda _: outliers).error(USUAL, target)
    assert weighed != pytest.approx(usual, rel=0.01)
    assert weight.shape == (256, K)


def test_errors_with_data_are_those_of_the_output(target: Target) -> None:
    x = np.random.default_rng(1).standard_normal((64, K)).astype(np.float32)
    errors = FormatErrors({target.source: x}, lambda _: None)
    assert errors.error(USUAL, target) == pytest.approx(FormatErrors({}, lambda _: None).error(USUAL, target), rel=0.2)
    x[:, 0] = 1000.0  # rounding the rest of a row to its grid is what counts then
    loud = FormatErrors({target.source: x}, lambda _: None)
    quiet = Scheme(8, 128, activations="float")
    assert loud.error(FINE, target) > 2 * loud.error(quiet, target)
    # A block of 128 suffers from the large channel in the first of them alone, rows of the other format altogether.
    assert loud.error(Scheme(format="int8"), target) > 1.2 * loud.error(FINE, target)


def table(times: float, **changes: Any) -> SpeedTable:
    known = {MeasuredFormat.of(Scheme(4, 32)): ((times, times),)}
    values: dict[str, Any] = {
        "instructions": "AVX512-VNNI", "source": "made up", "processor": "", "runtime": "", "widths": (K,),
        "rows": (1, 128), "float_us": ((10.0, 1000.0),), "formats": known,
    }  # fmt: skip
    return SpeedTable(**{**values, **changes})


def test_a_model_gets_the_formats_that_are_fast_where_it_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    four, eight = (MeasuredFormat.of(Scheme(bits, 32)) for bits in (4, 8))
    known = table(0, formats={four: ((2.0, 0.5),), eight: ((1.5, 1.1),)})
    monkeypatch.setattr("onnxfq.quantization.expected_speed.speeds_of", lambda machine: known)
    decoding = inspect(path, auto_format=True, workload="decode")
    assert {target.bits for target in decoding.targets} == {4}
    assert {target.speed for target in decoding.targets} == {"fast"}
    reading = quantize(path, path.with_name("out.onnx"), auto_format=True, workload="prefill", validate=False)
    assert {target.bits for target in reading.targets} == {8}
    assert reading.expected[0].times_faster == pytest.approx(1.1)
    usual = inspect(path, workload="prefill")
    assert {target.speed for target in usual.targets} == {"slow"}
    assert usual.warnings[0].startswith("FASTER: at 128 rows (prefill) the products run at about 0.5x")
    assert "with 8 bits they would at 1.1x (AVX512-VNNI, made up): `bits=8`" in usual.warnings[0]
    assert not any("FASTER" in warning for warning in (*decoding.warnings, *reading.warnings))


def test_what_no_format_makes_faster_is_left_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxfq.quantization.expected_speed.speeds_of", lambda machine: table(0.8))
    report = inspect(path, auto_format=True, workload=1, others="float")
    assert not report.targets
    assert {skip.name for skip in report.skipped} == {"up", "down"}
    assert all("runs at 0.80x" in skip.reason for skip in report.skipped)


def test_what_stays_in_float_is_stored_small(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxfq.quantization.expected_speed.speeds_of", lambda machine: table(0.8))
    report = inspect(path, auto_format=True, workload=1)
    assert [target.operator for target in report.targets] == ["MatMul", "MatMul"]


def test_a_scheme_by_name_is_not_chosen_over(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxfq.quantization.expected_speed.speeds_of", lambda machine: table(0.8))
    report = inspect(path, auto_format=True, workload=1, schemes={"up": {"bits": 8}}, others="float")
    assert [(target.name, target.bits) for target in report.targets] == [("up", 8)]


def test_calibrated_formats_are_chosen_by_what_their_outputs_lose(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    original = FormatErrors.__init__

    def spy(self: FormatErrors, inputs: dict[str, Any], mean_square: Any) -> None:  # noqa: ANN401
        seen.append(inputs)
        original(self, inputs, mean_square)

    monkeypatch.setattr(FormatErrors, "__init__", spy)
    monkeypatch.setattr("onnxfq.quantization.expected_speed.speeds_of", lambda machine: table(2.0))
    samples = [{"x": np.random.default_rng(i).standard_normal((8, K)).astype(np.float32)} for i in range(6)]
    report = quantize(path, path.with_name("out.onnx"), auto_format=True, calib=samples, algorithm="gptq")
    assert len(report.targets) == 2
    assert [sorted(inputs) for inputs in seen[:2]] == [[], ["a", "x"]]
    assert seen[1]["x"].shape == (32, K)
    np.testing.assert_array_equal(seen[1]["x"][:8], samples[0]["x"])


def test_nothing_is_chosen_where_nothing_is_known(path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing is known of how fast formats are on ARM \(got target=arm\)"):
        inspect(path, auto_format=True, target="arm")
    assert inspect(path, target="arm").targets


def test_targets_refuse_what_they_cannot_run(path: Path) -> None:
    with pytest.raises(SchemeError, match=r"standard ONNX operators only\. Use `format=\"qdq\"` or") as raised:
        inspect(path, target="portable")
    assert "any runtime of standard ONNX does not run the format matmulnbits" in str(raised.value)
    with pytest.raises(SchemeError, match="MatMulNBits has no kernel for this scheme"):
        inspect(path, target="cuda", bits=2)
    report = inspect(path, target="cuda", provider="cpu")
    assert report.scheme == "int4, block 32, symmetric, activations int8"
    assert report.warnings[0].startswith("Made for CUDA, which is not here")


def test_tables_of_embeddings_keep_to_what_the_target_has(tmp_path: Path) -> None:
    proto = model("[table] y = Gather (w, x)", x="int64[rows] x", y="float[rows, 256] y", w=grid(K))
    place = models.write(proto, tmp_path / "table.onnx")
    assert [target.bits for target in inspect(place, target="webgpu").targets] == [8]
    with pytest.raises(SchemeError, match=r"no embeddings of 2 bits .* Use `embeddings=4` or `embeddings=8`"):
        inspect(place, target="webgpu", schemes={"table": {"bits": 2}})
    assert "stay in float: other runtimes" in inspect(place, target="portable").skipped[0].reason


@pytest.mark.parametrize("name", sorted(packaged()))
@pytest.mark.parametrize("usage", USAGES)
def test_forecasts_hold_for_every_table(name: str, usage: str, target: Target) -> None:
    machine = Machine(name=AUTO, title="this machine", instructions=name)
    known = Forecast(machine, Usage(USAGES[usage], usage), packaged()[name])
    auto = AutoFormat(("matmulnbits",), lambda s, _: True, known.times_faster, FormatErrors({}, lambda _: None).error)
    found = auto.choose(target, USUAL)
    if found.scheme is not None:
        times = known.times_faster(found.scheme, target)
        assert times is not None
        assert times >= 1.0
    assert Forecast(MACHINES["arm"], known.usage, None).advice([]) == ""
