"""Two ways to tell the time of a run, and how much other programs disturb it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ClockName = Literal["wall", "processor"]

# Gives way to everything, and ends with the process that started it, however that ends.
_SPIN = "import os; os.nice(19); parent = os.getppid()\nwhile os.getppid() == parent: pass"
QUIET = 0.02  # share of the time spent waiting for a processor, below which a machine counts as quiet
_THREADS = Path("/proc/self/task")


@dataclass(frozen=True, slots=True)
class Clock:
    """What times are measured with.

    Attributes:
        name: "wall": what a user waits. "processor": how long the calling thread was on a processor, which does not
            depend on what other programs take; of a run that uses one thread.
        read: the time in seconds.
    """

    name: ClockName
    read: Callable[[], float]

    def time(self, run: Callable[[], object]) -> float:
        """Seconds of one run, never 0."""
        start = self.read()
        run()
        return max(self.read() - start, 1e-9)


WALL = Clock("wall", time.perf_counter)
PROCESSOR = Clock("processor", time.thread_time)


def _demand() -> dict[str, tuple[int, int]]:
    """Of each thread of this process, nanoseconds run and nanoseconds ready but waiting; empty where nothing tells."""
    found = {}
    for told in _THREADS.glob("*/schedstat"):
        with suppress(OSError, ValueError, IndexError):  # a thread may end while it is being asked
            ran, waited = map(int, told.read_text().split()[:2])
            found[told.parent.name] = (ran, waited)
    return found


@contextmanager
def spin_idle_cpus(clock: Clock, count: int) -> Iterator[None]:
    """By the processor's clock: let idle processors do something, as a machine's other programs would.

    How fast a thread runs depends on what the processor beside it does, which often is the same core. Kept busy by
    processes that give way to all others, it is the same whether the machine has other work or not.

    Args:
        clock: nothing is done by the wall's clock.
        count: of processors.
    """
    spinners = [] if clock is not PROCESSOR else [subprocess.Popen([sys.executable, "-c", _SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
        for spinner in spinners:
            spinner.wait()


class Disturbance:
    """How long this process's threads, from its creation on, waited for processors that others used.

    Threads count as long as they live: those that end before `share` is asked for are not seen.
    """

    def __init__(self) -> None:
        self._start = _demand()

    def share(self) -> float | None:
        """Of the time in which threads ran or could have run, that in which they waited: 0 to 1; None: unknown."""
        now = _demand()
        if not now:
            return None
        before = {thread: self._start.get(thread, (0, 0)) for thread in now}
        ran, waited = (sum(now[thread][i] - before[thread][i] for thread in now) for i in (0, 1))
        return waited / max(ran + waited, 1)
