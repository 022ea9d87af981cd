"""Two ways to tell the time of a run, and how much other programs disturb it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ClockName = Literal["wall", "processor"]

QUIET = 0.02  # share of the time waited for a processor, below which a machine counts as quiet
_SCHEDSTAT = Path("/proc/thread-self/schedstat")  # nanoseconds run, nanoseconds ready but waiting, slices


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


def waited() -> float | None:
    """Seconds for which this thread could have run but had to wait for a processor; None where nothing tells."""
    with suppress(OSError, ValueError, IndexError):
        return int(_SCHEDSTAT.read_text().split()[1]) * 1e-9
    return None


class Disturbance:
    """How large a share of the time from its creation on this thread waited for a processor."""

    def __init__(self) -> None:
        self._start, self._waited = time.perf_counter(), waited()

    def share(self) -> float | None:
        """From 0 to 1; None where nothing tells."""
        now = waited()
        if now is None or self._waited is None:
            return None
        return min(1.0, (now - self._waited) / max(time.perf_counter() - self._start, 1e-9))
