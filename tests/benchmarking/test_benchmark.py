"""`onnxfq benchmark` as a whole: what it times, refuses, prints, and exits with."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import onnxfq
from onnxfq import GateError, ModelError, UsageError
from onnxfq.benchmarking import bandwidth, clocks
from onnxfq.benchmarking import benchmark as benchmarking
from onnxfq.benchmarking import cases as timed_cases
from onnxfq.benchmarking.benchmark_config import BenchmarkConfig, bandwidth_of, choose_clock, choose_lengths
from onnxfq.benchmarking.clocks import PROCESSOR, WALL, Disturbance
from onnxfq.benchmarking.footprint import Footprint, measure_footprint, peak_memory
from onnxfq.benchmarking.measurements import Case, Speedup, Timing
from onnxfq.cli import run
from onnxfq.graph import Graph
from support.models import model, write, write_external
from tools.generate_decoder import Decoder, write_decoder

Output = pytest.CaptureFixture[str]

KEYS = [
    "version",
    "model",
    "baselines",
    "provider",
    "clock",
    "threads",
    "bandwidth",
    "costs",
    "cases",
    "gates",
    "warnings",
    "settings",
    "environment",
]


@pytest.fixture(scope="module")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where new.onnx, old/model.onnx and half/model.onnx are, decoders of the same size."""
    folder = tmp_path_factory.mktemp("decoders")
    write_decoder(folder / "old", Decoder(dtype="float32"))
    write_decoder(folder / "half", Decoder())
    onnxfq.quantize(folder / "old" / "model.onnx", folder / "new.onnx", algorithm="rtn", provider="cpu", validate=False)
    return folder


@pytest.fixture
def folder(decoders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as the current folder, with no processes of their own and little memory to read."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(decoders)
    monkeypatch.setattr(bandwidth, "_LEAST", 1 << 16)
    monkeypatch.setattr(bandwidth, "_largest_cache", lambda: 0)
    monkeypatch.setattr(timed_cases, "measure_footprint", lambda *_, **__: Footprint(0.5, 10_000_000, 30_000_000))
    return decoders


QUICK = ("--seconds", "0", "--provider", "cpu", "--tokens", "3", "--lengths", "4,9", "--loads", "1", "--clock", "wall")


def benchmark(*arguments: str | Path) -> int:
    """`onnxfq benchmark …` in this process; returns the exit code."""
    return run(["benchmark", *map(str, arguments)])


def test_tables_go_to_stdout(folder: Path, capsys: Output) -> None:
    assert benchmark("new.onnx", "--baseline", "old", "--baseline", "half", *QUICK) == 0
    out = capsys.readouterr().out
    for text in ("prefill, batch 1, 4 tokens", "decode, batch 1, after 9 tokens", "tokens/s", "p95", "30 MB", "B/s"):
        assert text in out
    assert "old/model.onnx" in out  # both baselines are called model.onnx


def test_json_is_one_object_on_stdout(folder: Path, capsys: Output) -> None:
    options = ("--batches", "1,2", "--min-speedup", "0", "--json")
    assert benchmark("new.onnx", "--baseline", "old", "--baseline", "half", *QUICK, *options) == 0
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (list(told), told["version"]) == (KEYS, 1)
    sizes = [(case["kind"], case["batch"], case["length"]) for case in told["cases"]]
    assert sizes == [(kind, batch, length) for kind in ("prefill", "decode") for batch in (1, 2) for length in (4, 9)]
    assert (told["gates"][0]["name"], told["gates"][0]["passed"]) == ("min-speedup", True)
    for case in told["cases"]:
        assert len(case["timings"]) == 3
        for timing in case["timings"]:
            assert 0 < timing["median_ms"] <= timing["p95_ms"]
            tokens = case["batch"] * (case["length"] if case["kind"] == "prefill" else 1)
            assert timing["tokens_per_second"] == pytest.approx(1000 * tokens / timing["median_ms"])
            assert (timing["limit_share"] is None) is (case["kind"] == "prefill")
        for speedup in case["speedups"]:
            assert 0 < speedup["low"] <= speedup["ratio"] <= speedup["high"]
    costs = told["costs"]
    assert costs[0]["file_bytes"] == sum(path.stat().st_size for path in folder.glob("new.onnx*"))
    assert costs[0]["weight_bytes"] < costs[1]["weight_bytes"] == costs[2]["weight_bytes"]  # half is widened


def test_python_gives_the_same_object(folder: Path) -> None:
    found = onnxfq.benchmark("new.onnx", provider="cpu", lengths=[4], seconds=0, tokens=2, loads=1, clock="wall")
    assert list(found.to_json()) == KEYS
    assert found.require() is found
    assert (found.cases[0].speedups, found.baselines) == ((), ())
    decode = found.cases[1].timings[0]
    assert decode.limit_tokens_per_second == pytest.approx(found.bandwidth / found.costs[0].weight_bytes)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.model = ""  # type: ignore[misc]


def test_a_failed_gate_exits_with_1_and_raises_where_it_is_required(folder: Path, capsys: Output) -> None:
    assert benchmark("new.onnx", "--baseline", "old", *QUICK, "--only", "decode", "--min-speedup", "1e6") == 1
    err = capsys.readouterr().err
    assert "a gate does not hold: min-speedup" in err
    assert "prefill" not in err
    found = onnxfq.benchmark(
        "new.onnx", "old", provider="cpu", lengths=[4], seconds=0, tokens=2, loads=1, min_speedup=1e6, clock="wall"
    )
    with pytest.raises(GateError, match=r"^new\.onnx fails 1 gate: min-speedup: .*, limit 1e\+06: failed\.$"):
        found.require()


WRONG = {
    "--min-speedup 2": "--min-speedup compares the model with another one. Name that with --baseline",
    "--baseline old --min-speedup -1": "--min-speedup must be a number of 0 or more (got -1.0)",
    "--lengths 4,x": "--lengths must be numbers with commas between them (got '4,x')",
    "--lengths 0": "--lengths must be numbers of 1 or more (got 0)",
    "--batches 2,-1": "--batches must be numbers",
    "--lengths 4095 --tokens 2": "The model takes 4096 tokens (got --lengths 4095 and --tokens 2)",
    "--tokens 0": "--tokens must be 1 or more (got 0)",
    "--threads 0": "--threads must be 1 or more (got 0)",
    "--loads 0": "--loads must be 1 or more (got 0)",
    "--seconds nan": "--seconds must be a number of 0 or more (got nan)",
    "--clock sundial": "sundial",
    "--only encode": "encode",
    "--clock processor --threads 2": "The processor's clock is that of one thread (got --threads 2)",
    "--cpus 100000": "--cpus must name processors of this process (got 100000",
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.items())
def test_wrong_usage_exits_with_2(folder: Path, capsys: Output, arguments: str, message: str) -> None:
    assert benchmark("old", "--provider", "cpu", *arguments.split()) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_models_that_are_not_there_or_do_other_things_exit_with_3(folder: Path, tmp_path: Path, capsys: Output) -> None:
    assert benchmark("none.onnx", *QUICK) == 3
    assert "none.onnx" in capsys.readouterr().err
    other = write(model("y = MatMul(x, w)", w=np.ones((64, 8), np.float32)), tmp_path / "other.onnx")
    assert benchmark("new.onnx", "--baseline", other, *QUICK) == 3
    assert "Only some of the models take cached keys and values" in capsys.readouterr().err


def test_other_models_are_run_by_batch_and_length(folder: Path, tmp_path: Path, capsys: Output) -> None:
    table, weight = np.ones((10, 64), np.float32), np.ones((64, 8), np.float32)
    proto = model("e = Gather(t, ids) y = MatMul(e, w)", x="int64[B, S] ids", y="float[B, S, 8] y", t=table, w=weight)
    encoder = write(proto, tmp_path / "encoder.onnx")
    assert benchmark(encoder, *QUICK, "--batches", "1,3", "--json") == 0
    cases = json.loads(capsys.readouterr().out)["cases"]
    assert [(c["kind"], c["batch"], c["length"]) for c in cases] == [("run", b, n) for b in (1, 3) for n in (4, 9)]
    rows = write(model("y = MatMul(x, w)", w=weight), tmp_path / "rows.onnx")
    assert benchmark(rows, *QUICK, "--json") == 0
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    assert (case["batch"], case["length"], case["timings"][0]["tokens_per_second"]) == (1, None, None)
    assert benchmark(rows, *QUICK, "--only", "decode") == 2
    fixed = write(model("y = MatMul(x, w)", x="float[2, 64] x", y="float[2, 8] y", w=weight), tmp_path / "fixed.onnx")
    assert benchmark(fixed, *QUICK) == 3
    assert "is of shape [2, 64] whatever the batch (got batch 1)" in " ".join(capsys.readouterr().err.split())
    assert benchmark(fixed, *QUICK, "--batches", "2") == 0


def test_what_makes_no_sense_is_refused_before_any_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timed_cases, "measure_footprint", lambda *_, **__: pytest.fail("work was done"))
    rows = write(model("y = MatMul(x, w)", w=np.ones((64, 8), np.float32)), folder / "rows.onnx")
    with pytest.raises(UsageError, match="it has no decode"):
        onnxfq.benchmark(rows, provider="cpu", only="decode", clock="wall")
    with pytest.raises(ModelError, match="Only some of the models"):
        onnxfq.benchmark("new.onnx", rows, provider="cpu", clock="wall")


def test_lengths_follow_from_what_the_model_takes(folder: Path, tmp_path: Path) -> None:
    graph = Graph.load(Path("old/model.onnx"))
    assert choose_lengths(None, [graph], 32) == (128, 512)
    with pytest.raises(UsageError, match="none is left for a prompt"):
        choose_lengths(None, [graph], 4096)
    short = write_decoder(tmp_path / "short", Decoder("opt", kv_heads=4, positions=300, dtype="float32"))
    assert choose_lengths(None, [Graph.load(short)], 32) == (128, 268)


# Clocks


@pytest.mark.parametrize(("name", "clock"), [("wall", WALL), ("processor", PROCESSOR)])
def test_the_clock_is_the_one_asked_for(name: str, clock: object) -> None:
    assert choose_clock(name, "cpu") is clock


def test_the_processor_s_clock_uses_one_thread_and_says_so(folder: Path) -> None:
    found = onnxfq.benchmark("new.onnx", "old", provider="cpu", lengths=[4], seconds=0, tokens=2, clock="processor")
    assert (found.clock, found.threads) == ("processor", 1)
    assert any('`clock="processor"`' in warning for warning in found.warnings)
    with pytest.raises(UsageError, match="nothing of a GPU"):
        choose_clock("processor", "cuda")


def test_processors_are_kept_busy_by_the_processor_s_clock_only(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def remembered(command: list[str]) -> subprocess.Popen[bytes]:
        started.append(start(command))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", remembered)
    with clocks.spin_idle_cpus(WALL, 2):
        assert started == []
    with clocks.spin_idle_cpus(PROCESSOR, 2):
        assert [process.poll() for process in started] == [None, None]
    assert all(process.returncode is not None for process in started)


def test_waiting_is_a_share_of_what_all_threads_wanted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(clocks, "_THREADS", tmp_path)
    assert Disturbance().share() is None

    def tell(thread: int, ran: int, waited: int) -> None:
        (tmp_path / str(thread)).mkdir(exist_ok=True)
        (tmp_path / str(thread) / "schedstat").write_text(f"{ran} {waited} 7\n")

    tell(1, 5000, 100)
    disturbance = Disturbance()
    assert disturbance.share() == 0
    tell(1, 8000, 100)
    tell(2, 500, 500)  # began since
    assert disturbance.share() == pytest.approx(500 / 4000)
    shutil.rmtree(tmp_path / "1")  # ended since
    assert disturbance.share() == 0.5


@pytest.mark.skipif(not clocks._THREADS.exists(), reason="needs Linux")
def test_waiting_on_the_only_processor_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "_LEAST", 1 << 20)
    monkeypatch.setattr(bandwidth, "_largest_cache", lambda: 0)
    with benchmarking._confined([min(os.sched_getaffinity(0))]):
        load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
        try:
            reading, disturbance = bandwidth.HostBandwidth(2, WALL), Disturbance()
            end = WALL.read() + 0.5
            while WALL.read() < end:
                reading.measure()
            assert (disturbance.share() or 0) > clocks.QUIET
        finally:
            for process in load:
                process.kill()
                process.wait()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_cpus_are_those_of_the_run_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, seen = os.sched_getaffinity(0), list[set[int]]()
    cpu = min(before)

    def look(config: BenchmarkConfig, *_: object) -> tuple[()]:
        config.bandwidth.measure()
        seen.append(os.sched_getaffinity(0))
        return ()

    monkeypatch.setattr(benchmarking, "time_cases", look)
    found = onnxfq.benchmark("new.onnx", provider="cpu", cpus=[cpu], clock="wall", loads=1)
    assert (seen, found.threads, os.sched_getaffinity(0)) == ([{cpu}], 1, before)


# Memory


def test_reading_memory_takes_time_by_either_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "_LEAST", 1 << 24)
    monkeypatch.setattr(bandwidth, "_largest_cache", lambda: 0)
    for threads, clock in ((1, WALL), (1, PROCESSOR), (2, WALL)):
        measured = bandwidth.HostBandwidth(threads, clock)
        first = measured.measure()
        assert 1e8 < first <= measured.measure() == measured.best < 1e13
        assert 0 < measured.worst <= first


def test_other_use_of_the_memory_is_told() -> None:
    assert not list(benchmarking._warnings((), WALL, 0.95))
    (told,) = benchmarking._warnings((), WALL, 0.6)
    assert told.startswith("Memory was read at between 60% and 100% of the speed shown")


def test_a_speed_up_that_nothing_is_known_of_is_told_and_fails_its_gate() -> None:
    speedups = (Speedup("old", 2.0, 0.9, 4.0, precise=False), Speedup("old", 2.0, 1.99, 2.01, precise=True))
    case = Case("decode", 1, 16, 9, (Timing("m", 1.0, 2.0, 9),) * 3, speedups)
    told = list(benchmarking._warnings((case,), WALL, 1.0))
    assert told[0] == "1 speed-ups are unknown: the machine is busy."
    for limit, passed in ((1.0, False), (0.9, True)):
        (gate,) = benchmarking._gates(limit, (case,))
        assert (gate.passed, gate.measured) == (passed, 0.9)
        assert gate.note == "lower bound of 0.90 to 4.00, decode, batch 1, after 16 tokens; the machine was busy"


@pytest.mark.cuda
def test_a_device_s_memory_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    found = bandwidth_of("cuda", None, WALL)
    assert 1e10 < found.measure() < 1e14


@pytest.mark.cuda
def test_decoding_on_cuda(folder: Path) -> None:
    found = onnxfq.benchmark("new.onnx", "old", provider="cuda", lengths=[16], seconds=1, loads=1)
    assert (found.provider, found.clock, len(found.cases)) == ("cuda", "wall", 2)


def test_a_process_of_its_own_loads_and_runs_the_model(tmp_path: Path) -> None:
    weight = np.ones((2000, 5000), np.float32)
    proto = model("y = MatMul(x, w)", x="float[M, 2000] x", y="float[M, 5000] y", w=weight)
    graph = Graph.load(write_external(proto, tmp_path / "large.onnx"))
    found = measure_footprint(graph.path, graph.signature, batch=2, length=1, provider="cpu", threads=1)
    assert 0 < found.load_seconds < 60
    own = peak_memory()
    assert own
    assert found.base_bytes
    assert found.peak_bytes
    assert 40e6 < found.peak_bytes - found.base_bytes < 400e6  # the weight, and copies of it


def test_a_process_that_fails_tells_why(tmp_path: Path) -> None:
    path = write(model("y = acme.Mystery(x)", domains=', "acme" : 1'), tmp_path / "custom.onnx")
    graph = Graph.load(path)
    with pytest.raises(ModelError, match=r"could not be loaded and run .* of its own: .*has no operator acme:Mystery"):
        measure_footprint(path, graph.signature, batch=1, length=1, provider="cpu", threads=1)
