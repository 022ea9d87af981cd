"""Work that is sent elsewhere: the same bytes as here, whoever does it and whoever is killed, and clear errors."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onnxfq import ExecutorError, ModelError, Options, UsageError, pipeline
from onnxfq.calibration import streams
from onnxfq.calibration.pieces import Runtime
from onnxfq.calibration.stages import find_stages
from onnxfq.calibration.streams import Streams
from onnxfq.executors import cluster, executor
from onnxfq.executors.cluster import Cluster, address_of, connected
from onnxfq.executors.executor import Workers, opened, worker_versions
from onnxfq.graph import Flow, Graph, TensorFile
from onnxfq.solvers import SOLVERS
from support.models import write_external
from support.mortal import Mortal, MortalGptq
from support.normed import FEEDS, network
from support.planned import targets_of
from support.tiny import contents, entries, pair, quantize, refused, weight

distributed = pytest.importorskip("distributed", reason="pip install 'onnxfq[distributed]'")
posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
KINDS = ["threads", "processes", "dask"]


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a scheduler on this machine that has two worker processes, which are started again when killed."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
    ) as local:
        yield f"dask:{local.scheduler_address}"


@pytest.fixture(scope="module")
def processes() -> Iterator[Executor]:
    with pool(2) as executor:
        yield executor


def pool(count: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))


@pytest.fixture(params=KINDS)
def elsewhere(request: pytest.FixtureRequest) -> Iterator[Executor | str]:
    if request.param == "threads":
        with ThreadPoolExecutor(2) as executor:
            yield executor
    else:
        yield request.getfixturevalue("scheduler" if request.param == "dask" else "processes")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with normalization layers, biases and five weights in a data file."""
    return write_external(network(), tmp_path_factory.mktemp("source") / "m.onnx")


@pytest.fixture(autouse=True)
def shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four samples of about fifty tokens make two shards of two."""
    monkeypatch.setattr(streams, "SHARD_TOKENS", 60)


@dataclass(eq=False)
class Figures:
    """Sums made for reports alone: in which order compiled code adds them may depend on numba's cache."""

    values: list[float]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Figures) and self.values == pytest.approx(other.values, rel=1e-5)


def written(source: Path, folder: Path, **changes: Any) -> dict[str, object]:
    """What a run writes and reports, and proof that it leaves nothing else."""
    settings: dict[str, Any] = {"provider": "cpu", "validate": False} | changes
    report = pipeline.quantize(source, folder / "out.onnx", **settings).to_json()
    found = contents(folder)
    assert not set(found) - {"out.onnx", "out.onnx.data"}
    errors = [target.pop("relative_error") for target in report["targets"]]
    facts = {name: report[name] for name in ("targets", "skipped", "warnings", "size", "settings")}
    return found | {"report": json.dumps(facts).encode(), "errors": Figures(errors)}


# The same bytes

SETTINGS: dict[str, dict[str, Any]] = {
    "rtn": {"algorithm": "rtn"},
    "hqq, channel": {"algorithm": "hqq", "block_size": "channel"},
    "gptq": {"algorithm": "gptq", "calib": FEEDS},
    "awq, spilled": {
        "algorithm": "awq",
        "calib": FEEDS,
        "memory": 0,
    },
}


@pytest.mark.parametrize("settings", SETTINGS)
def test_it_writes_the_same_bytes(
    elsewhere: Executor | str, source: Path, tmp_path: Path, settings: str, here: dict[str, dict[str, object]]
) -> None:
    if settings not in here:
        (tmp_path / "here").mkdir()
        here[settings] = written(source, tmp_path / "here", **SETTINGS[settings])
    (tmp_path / "there").mkdir()
    assert written(source, tmp_path / "there", executor=elsewhere, **SETTINGS[settings]) == here[settings]


@pytest.fixture(scope="module")
def here() -> dict[str, dict[str, object]]:
    return {}


def test_many_tokens_make_the_same_sums_without_a_sample_that_is_not_finite(
    processes: Executor, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    graph = Graph.load(source)
    flow, targets = Flow(graph), targets_of(graph)
    stages = [stage for stage in find_stages(flow, targets) if stage.source]
    x = np.random.default_rng(0).standard_normal((7, 1500, 64)).astype(np.float32)
    x[3, 7, 5] = np.nan
    runtime = Runtime("cpu", None, 10**8, tmp_path)
    runs = [
        Streams(graph, flow, stages, [[] for _ in stages], [{"x": sample} for sample in x], runtime, workers)
        for workers in (Workers(), Workers(processes))
    ]
    tensor_file = TensorFile(tmp_path / "tensor_file")
    for stage in range(2):
        here, there = (run.advance(stage, tensor_file, 32, lambda: None) for run in runs)
        assert here is not None
        assert there is not None
        assert here.tokens == there.tokens == 6 * 1500
        for name in ("gram", "cross", "mean", "float_mean"):
            np.testing.assert_array_equal(getattr(here, name), getattr(there, name))
    for run in runs:
        assert run.dropped == {3: "h"}
        run.close()
    with tensor_file:
        assert entries(tmp_path) == ["tensor_file"]


def test_weights_really_leave_this_process(processes: Executor, source: Path, tmp_path: Path) -> None:
    class Counting(Executor):
        sent = 0

        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            Counting.sent += 1
            return processes.submit(fn, *args, **kwargs)

    written(source, tmp_path, algorithm="rtn", executor=Counting())
    assert Counting.sent == 5
    assert not executor.Workers().elsewhere


def test_a_relative_path_is_found_from_elsewhere(
    processes: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes.submit(os.getcwd).result()  # they are there, and in another folder
    monkeypatch.chdir(tmp_path)
    pair(Path("source/m.onnx"), external=True)
    Path("out").mkdir()
    assert written(Path("source/m.onnx"), Path("out"), algorithm="rtn", executor=processes)


def test_damaged_weights_are_all_named(elsewhere: Executor | str, tmp_path: Path) -> None:
    broken = weight(0)
    broken[3, 4] = np.nan
    path = pair(tmp_path / "m.onnx", first=broken)
    with pytest.raises(ModelError, match=r"1 weight of '.*m.onnx': 'w0'\. Export"):
        pipeline.quantize(path, tmp_path / "out.onnx", algorithm="rtn", provider="cpu", executor=elsewhere)
    assert entries(tmp_path) == ["m.onnx"]


def test_a_run_goes_on_elsewhere_and_here(
    scheduler: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "first", "second"):
        (tmp_path / name).mkdir()
    wanted = written(source, tmp_path / "whole", calib=FEEDS)
    told: list[str] = []
    for name, begun, ended in (("first", None, scheduler), ("second", scheduler, None)):
        with monkeypatch.context() as patch:
            patch.setattr(pipeline, "save", interrupt)
            with pytest.raises(KeyboardInterrupt):
                written(source, tmp_path / name, calib=FEEDS, executor=begun)
        found = written(
            source,
            tmp_path / name,
            calib=FEEDS,
            executor=ended,
            resume=True,
            progress=lambda what, *_: told.append(what),
        )
        assert found == wanted
        assert any("Resuming: " in what for what in told)
        told.clear()


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


# Killed workers


@pytest.fixture
def mortals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOLVERS, "mortal", Mortal)
    monkeypatch.setitem(SOLVERS, "mortal-gptq", MortalGptq)


@posix
@pytest.mark.usefixtures("mortals")
@pytest.mark.parametrize("settings", [{"algorithm": "mortal"}, {"algorithm": "mortal-gptq", "calib": FEEDS}])
def test_a_killed_worker_loses_nothing(scheduler: str, source: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    grave = tmp_path / "grave"
    settings = settings | {"algorithm": f"{settings['algorithm']}:grave={grave}"}
    for name in ("there", "here"):
        (tmp_path / name).mkdir()
    there = written(source, tmp_path / "there", executor=scheduler, **settings)
    assert grave.exists(), "nobody was killed"
    assert there == written(source, tmp_path / "here", **settings)


@posix
def test_workers_killed_while_samples_run_lose_nothing(scheduler: str, source: Path, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill(what: str, done: int, total: int) -> None:
        if what == "calibrating and solving" and done == 2 and not killed:
            with connected(address_of(scheduler)) as known:
                killed.extend(known.ask(os.getpid).values())
            for process in killed:
                os.kill(process, signal.SIGKILL)

    for name in ("there", "here"):
        (tmp_path / name).mkdir()
    settings = {"algorithm": "gptq", "calib": FEEDS * 5, "work_dir": tmp_path / "work"}
    there = written(source, tmp_path / "there", executor=scheduler, progress=kill, **settings)
    assert len(killed) == 2
    assert all(name.startswith(("stage-", "onnxfq-work")) for name in entries(tmp_path / "work"))
    assert there == written(source, tmp_path / "here", **settings)


@posix
@pytest.mark.usefixtures("mortals")
def test_a_broken_pool_is_told_and_the_run_can_be_resumed(source: Path, tmp_path: Path) -> None:
    grave, folder = tmp_path / "grave", tmp_path / "out"
    folder.mkdir()
    settings = {"algorithm": f"mortal-gptq:grave={grave}", "calib": FEEDS, "work_dir": tmp_path / "work"}
    with pool(1) as broken, pytest.raises(ExecutorError, match="workers are lost") as raised:
        written(source, folder, executor=broken, **settings)
    assert raised.value.exit_code == 3
    assert entries(folder) == []
    assert grave.exists()
    assert written(source, folder, resume=True, **settings)


# In order, a bounded number at a time


@dataclass(frozen=True)
class Waiting:
    """Takes some time and some memory."""

    number: int
    nbytes: int = 10
    files: list[Path] = field(default_factory=list)


def wait(task: Waiting) -> int:
    time.sleep(0.05 if task.number % 3 == 0 else 0)
    return task.number


def fail(task: Waiting) -> int:
    if task.number == 2:
        raise ModelError("the third")
    return task.number


@pytest.mark.parametrize(("memory", "most"), [(0, 1), (10, 1), (35, 3), (1000, 12)])
def test_results_come_in_order_and_little_is_on_its_way(memory: int, most: int) -> None:
    asked: list[int] = []

    def tasks() -> Iterator[Waiting]:
        for number in range(12):
            asked.append(number)
            yield Waiting(number)

    with ThreadPoolExecutor(4) as executor:
        got: list[int] = []
        for number in Workers(executor).in_order(wait, tasks(), memory):
            got.append(number)
            assert len(asked) - len(got) <= most
    assert got == list(range(12))


def test_what_a_task_raises_arrives_and_the_rest_is_given_up() -> None:
    futures: list[Future[Any]] = []

    class Recording(ThreadPoolExecutor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            futures.append(super().submit(fn, *args, **kwargs))
            return futures[-1]

    with Recording(1) as pool, opened(pool) as workers:
        results = workers.in_order(fail, map(Waiting, range(4)), 1000)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ModelError, match="the third"):
            next(results)
    futures.clear()
    with Recording(1) as pool:
        interrupted(pool)
        assert sum(future.cancelled() for future in futures) > 150


def interrupted(executor: Executor) -> None:
    with suppress(KeyboardInterrupt), opened(executor) as workers:
        for _ in workers.in_order(wait, map(Waiting, range(0, 600, 3)), 10**6):
            raise KeyboardInterrupt


def test_an_interruption_leaves_an_executor_of_the_user_open(source: Path, tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if what == "solving" and done:
            raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(KeyboardInterrupt):
            written(source, tmp_path, algorithm="rtn", executor=executor, progress=stop)
        assert entries(tmp_path) == []
        assert executor.submit(int).result() == 0


# What does not fit


def test_workers_of_other_versions_are_refused(
    scheduler: str, processes: Executor, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = worker_versions()
    monkeypatch.setattr(executor, "worker_versions", lambda: real | {"numpy": "1.0"})
    wanted = f"would give other bytes .*numpy: got {np.__version__}, wanted 1.0"
    with pytest.raises(ExecutorError, match=f"worker process .* {wanted}"):
        written(source, tmp_path, algorithm="rtn", executor=processes)
    monkeypatch.setattr(executor, "worker_versions", worker_versions)
    monkeypatch.setitem(real, "numpy", "1.0")  # what this process says of itself
    with pytest.raises(ExecutorError, match=f"The worker tcp://.* {wanted}"):
        written(source, tmp_path, algorithm="rtn", executor=scheduler)
    assert entries(tmp_path) == []


def test_a_worker_that_sees_other_files_refuses(source: Path) -> None:
    seen = executor._Stamp.of(source)
    for other, why in ((seen.size + 1, "bytes, wanted"), (seen.size, "modification time")):
        stamp = executor._Stamp(source, other, seen.modified + 1)
        with pytest.raises(ExecutorError, match=f"{why}.*share"):
            stamp.check()
    with pytest.raises(ExecutorError, match=r"No such file.*under the same paths"):
        executor._Stamp(source.with_name("missing"), 0, 0).check()


@pytest.mark.parametrize("address", ["tcp://host:1", "dask:", "dask", "", "processes:4"])
def test_a_text_that_names_no_scheduler_is_wrong_usage(address: str) -> None:
    with pytest.raises(UsageError, match=r"`executor` must be dask:ADDRESS"):
        Options(executor=address)


def test_what_is_no_executor_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="got int"):
        Options(executor=4)  # type: ignore[arg-type]
    assert address_of("dask: tcp://h:1") == "tcp://h:1"


@posix
def test_a_pool_that_forks_is_refused() -> None:
    forking = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))
    with forking, pytest.raises(UsageError, match="spawn"):
        Options(executor=forking)


def test_the_command_line_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    model = pair(tmp_path / "m.onnx")
    refused(tmp_path, capsys, model, "--executor", "here", code=2, says="--executor must be dask:ADDRESS (got 'here')")
    refused(tmp_path, capsys, model, "--executor", "dask:bad://h:1", code=2, says="not the address of a scheduler")
    refused(
        tmp_path, capsys, model, "--executor", "dask:tcp://127.0.0.1:1", says=("No dask scheduler", "dask scheduler")
    )
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    refused(tmp_path, capsys, model, "--executor", "dask:tcp://h:1", code=2, says="pip install 'onnxfq[distributed]'")


def test_the_command_line_sends_work(scheduler: str, tmp_path: Path) -> None:
    model = pair(tmp_path / "m.onnx")
    assert quantize(model, "--algorithm", "rtn", "--no-validate", "-o", tmp_path / "a.onnx") == 0
    there = ("--algorithm", "rtn", "--no-validate", "-o", tmp_path / "b.onnx", "--executor", scheduler)
    assert quantize(model, *there) == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_scheduler_without_workers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    with distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as local:
        address = local.scheduler_address
        with pytest.raises(ExecutorError, match="has no workers"), connected(address):
            pass


class Client:
    """What a cluster asks of a client, whose workers come and go as told."""

    def __init__(self, *workers: bool, answers: dict[str, object] | None = None) -> None:
        self.workers, self.answers = list(workers), answers or {}

    def get_executor(self, **_: object) -> Executor:
        return ThreadPoolExecutor(1)

    def nthreads(self) -> dict[str, int]:
        return {"tcp://w:1": 1} if self.workers.pop(0) else {}

    def run(self, *_: object, **__: object) -> dict[str, object]:
        return self.answers


def test_workers_that_stay_away_for_long_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 50.0, 100.0, 130.0, 161.0])
    monkeypatch.setattr(cluster, "monotonic", lambda: next(now))
    watched = Cluster(Client(True, False, False, False), "tcp://s:1")  # seen at 0 and 50, away at 100, 130, 161
    watched.check()
    watched.check()
    with pytest.raises(ExecutorError, match="no worker for 60 s"):
        watched.check()


def test_workers_without_onnxfq_are_told() -> None:
    watched = Cluster(Client(answers={"tcp://w:1": ModuleNotFoundError("No module named 'onnxfq'")}), "tcp://s:1")
    with pytest.raises(ExecutorError, match=r"tcp://w:1 of 'tcp://s:1' cannot run onnxfq \(No module named 'onnxfq'\)"):
        watched.ask(worker_versions)


class Answering(Executor):
    """Does nothing, and has one future for everything."""

    def __init__(self, future: Future[Any]) -> None:
        self.future = future

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self.future


def test_work_that_is_given_up_is_told() -> None:
    future: Future[Any] = Future()
    future.cancel()
    future.set_running_or_notify_cancel()
    with pytest.raises(ExecutorError, match="gave the work up") as raised:
        list(Workers(Answering(future)).in_order(wait, [Waiting(0)], 0))
    assert isinstance(raised.value.__cause__, CancelledError)
    closed = ThreadPoolExecutor(1)
    closed.shutdown()
    with pytest.raises(ExecutorError, match="shutdown"):
        list(Workers(closed).in_order(wait, [Waiting(0)], 0))


def test_work_that_kills_every_worker_is_told() -> None:
    future: Future[Any] = Future()
    future.set_exception(distributed.KilledWorker("solve", SimpleNamespace(address="tcp://w:1"), 3))
    with pytest.raises(ExecutorError, match=r"workers are lost \(KilledWorker: .*want of memory"):
        list(Workers(Answering(future)).in_order(wait, [Waiting(0)], 0))
