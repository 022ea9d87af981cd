"""Work that need not be done here: sent to whatever offers `concurrent.futures`, or done here where nothing does.

    tasks, in order → [submit, as many at a time as memory allows] → results, in the same order

A task holds what it needs, or names files, so that it can be given to another worker when one is killed.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol, TypeVar

import numba
import numpy as np
from threadpoolctl import threadpool_info

from onnxfq.errors import ExecutorError
from onnxfq.executors.accepted import check_executor
from onnxfq.executors.cluster import Cluster, address_of, connected, killed_worker
from onnxfq.session import runtime_version
from onnxfq.system.threads import limited_threads
from onnxfq.version import VERSION

_LOOK_EVERY = 5.0  # seconds, at whether those that are waited for are still there
_ALONE = threading.Lock()  # limits on the threads of matrix products are a process's, not a thread's


class RemoteTask(Protocol):
    """Something to do that can be pickled."""

    @property
    def nbytes(self) -> int:
        """Memory that it takes while it is on its way."""
        ...

    @property
    def files(self) -> Sequence[Path]:
        """What it reads, as absolute paths."""
        ...


AnyTask = TypeVar("AnyTask", bound=RemoteTask)
Result = TypeVar("Result")


class Workers:
    """Those who do tasks: an executor's workers, or this process where there is no executor.

    Args:
        executor: takes the tasks; None does them here.
        threads: for each task at most; None for all that a worker has.
        cluster: what is known about the executor's workers; None where nothing is.
    """

    def __init__(
        self, executor: Executor | None = None, *, threads: int | None = None, cluster: Cluster | None = None
    ) -> None:
        self._executor, self._threads, self._cluster = executor, threads, cluster
        self._waiting: deque[tuple[Future[object], int]] = deque()

    @property
    def elsewhere(self) -> bool:
        """Whether tasks leave this process, or at least this thread."""
        return self._executor is not None

    def in_order(
        self, function: Callable[[AnyTask], Result], tasks: Iterable[AnyTask], memory: int
    ) -> Iterator[Result]:
        """Do tasks and return their results, in order.

        Args:
            function: what to do with each; to be found under its name in every process.
            tasks: asked for only when they can be sent.
            memory: bytes for tasks that are on their way, or whose result has not been taken; one may be, whatever
                it takes.

        Raises:
            ExecutorError: the workers are lost, or do not fit.
            Exception: whatever `function` raises.
        """
        if self._executor is None:
            yield from map(function, tasks)
            return
        waiting = self._waiting
        for task in tasks:
            while waiting and (waiting[0][0].done() or sum(size for _, size in waiting) + task.nbytes > memory):
                yield self._next()  # type: ignore[misc]
            waiting.append((self._submit(function, task), task.nbytes))
        while waiting:
            yield self._next()  # type: ignore[misc]

    def everywhere(self, function: Callable[[], None]) -> None:
        """Call a function here, and wherever that can be asked for."""
        function()
        if self._cluster:
            self._cluster.everywhere(function)

    def cancel(self) -> None:
        """Give up everything that is on its way."""
        while self._waiting:
            self._waiting.pop()[0].cancel()

    def _submit(self, function: Callable[[AnyTask], Result], task: AnyTask) -> Future[object]:
        assert self._executor is not None
        stamps = [_Stamp.of(path) for path in task.files]
        try:
            return self._executor.submit(_perform, worker_versions(), stamps, self._threads, function, task)
        except (BrokenExecutor, RuntimeError) as error:  # the latter: it was shut down
            raise _lost(error) from error

    def _next(self) -> object:
        future, _ = self._waiting[0]
        while not wait([future], timeout=_LOOK_EVERY).done:
            if self._cluster:
                self._cluster.check()
        self._waiting.popleft()
        try:
            return future.result()
        except Exception as error:
            if isinstance(error, (BrokenExecutor, CancelledError, *killed_worker())):
                raise _lost(error) from error
            raise


HERE = Workers()


@contextmanager
def opened(executor: str | Executor | None, *, threads: int | None = None) -> Iterator[Workers]:
    """Get workers ready, and give up afterwards what they have not finished.

    Args:
        executor: any executor of `concurrent.futures`, which stays open; the address of a dask scheduler,
            "dask:tcp://HOST:PORT"; or None to do everything here.
        threads: for each task at most.

    Raises:
        UsageError: an executor that cannot be used.
        ExecutorError: there is no scheduler at the address, or it has no workers, or such as do not fit.
    """
    check_executor(executor)
    with ExitStack() as stack:
        cluster = None
        if isinstance(executor, str):
            cluster = stack.enter_context(connected(address_of(executor)))
            for where, found in cluster.ask(worker_versions).items():
                _compare(where, found)
            executor = cluster.executor
        workers = Workers(executor, threads=threads, cluster=cluster)
        stack.callback(workers.cancel)
        yield workers


@cache
def worker_versions() -> dict[str, str]:
    """Whatever decides about the last bits of results: versions, and the kind of processor that BLAS works for."""
    kinds = {info["architecture"] for info in threadpool_info() if "architecture" in info}
    return {
        "onnxfq": VERSION,
        "onnxruntime": runtime_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "processor": ", ".join(sorted(kinds)),
    }


@dataclass(frozen=True, slots=True)
class _Stamp:
    """A file by its size and modification time."""

    path: Path
    size: int
    modified: int

    @classmethod
    def of(cls, path: Path) -> _Stamp:
        status = path.stat()
        return cls(path, status.st_size, status.st_mtime_ns)

    def check(self) -> None:
        try:
            found = _Stamp.of(self.path)
        except OSError as error:
            self._refuse(error.strerror or str(error))
        if found.size != self.size:
            self._refuse(f"got {found.size} bytes, wanted {self.size}")
        if found.modified != self.modified:
            self._refuse("it has another modification time")

    def _refuse(self, why: str) -> None:
        raise ExecutorError(
            f"{_worker()} does not see '{self.path}' as it is here ({why}). "
            "Work that is sent elsewhere reads the model, and what `work_dir` holds, under the same paths: "
            "put both on a file system that all workers share."
        )


def _perform(
    wanted: Mapping[str, str],
    stamps: Sequence[_Stamp],
    threads: int | None,
    function: Callable[[AnyTask], Result],
    task: AnyTask,
) -> Result:
    """Do a task, in whatever process this is, one at a time."""
    _compare(_worker(), worker_versions(), wanted)
    for stamp in stamps:
        stamp.check()
    with _ALONE, limited_threads(threads):
        return function(task)


def _worker() -> str:
    return f"The worker process {os.getpid()} on {socket.gethostname()}"


def _compare(where: str, found: Mapping[str, str], wanted: Mapping[str, str] | None = None) -> None:
    """Refuse a worker whose results would not be the same bytes."""
    wanted = worker_versions() if wanted is None else wanted
    other = [f"{key}: got {found.get(key)}, wanted {value}" for key, value in wanted.items() if found.get(key) != value]
    if other:
        raise ExecutorError(
            f"{where} would give other bytes than this process ({'; '.join(other)}). Install the same versions "
            "everywhere; where processors differ, set OPENBLAS_CORETYPE to the oldest kind everywhere, or choose "
            "workers of one kind."
        )


def _lost(error: BaseException) -> ExecutorError:
    """What to say about work that did not come back."""
    if isinstance(error, CancelledError):
        return ExecutorError(
            "The executor gave the work up: it was shut down, or its scheduler is lost. Start it again."
        )
    reason = " ".join(str(error).split()).rstrip(".")
    remedy = "If they were killed for want of memory, have fewer on a machine"
    if isinstance(error, BrokenExecutor):
        remedy += "; a pool of processes must be made under `if __name__ == '__main__':`"
    return ExecutorError(f"The workers are lost ({type(error).__name__}: {reason}). {remedy}.")
