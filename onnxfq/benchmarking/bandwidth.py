"""How fast this machine reads memory: the limit of everything that has to read all weights for every token."""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from onnxfq.benchmarking.clocks import WALL, Clock
from onnxfq.benchmarking.decoding import Repeated
from onnxfq.session import Session
from onnxfq.system.compiled import compiled

TRIES = 5
_LEAST, _MOST = 1 << 28, 1 << 31  # bytes read: so that no cache holds them, and that no memory is too small
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_COLUMNS = 4096


class Bandwidth(ABC):
    """How fast a memory is read, measured again and again.

    Attributes:
        best: bytes a second, the most of all measurements.
        worst: the least of them.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.best, self.worst = 0.0, float("inf")

    def measure(self) -> float:
        """Bytes a second: the best of some reads, now or before."""
        now = self._bytes / min(self._clock.time(self._read) for _ in range(TRIES))
        self.best, self.worst = max(self.best, now), min(self.worst, now)
        return self.best

    @property
    @abstractmethod
    def _bytes(self) -> int:
        """What a read moves."""

    @abstractmethod
    def _read(self) -> object:
        """Read once."""


class HostBandwidth(Bandwidth):
    """Reads host memory.

    Args:
        threads: that read at once.
        clock: what times are measured with; of another thread's work "processor" knows nothing.
    """

    def __init__(self, threads: int, clock: Clock) -> None:
        super().__init__(clock)
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._values = np.ones(max(_LEAST, min(2 * _largest_cache(), _MOST)) // 8, np.int64)
        self._parts = np.array_split(self._values, threads)
        _sum(self._values[:8])  # compiles

    @property
    def _bytes(self) -> int:
        return self._values.nbytes

    def _read(self) -> object:
        return list(self._pool.map(_sum, self._parts)) if self._pool else _sum(self._values)


class DeviceBandwidth(Bandwidth):
    """Reads and writes a device's memory, timed by the wall's clock.

    Args:
        session: a model Y = op(A) of one element-wise node, float32 [rows, 4096].
    """

    def __init__(self, session: Session) -> None:
        super().__init__(WALL)
        self._array = np.ones((_LEAST // (4 * _COLUMNS), _COLUMNS), np.float32)
        self._repeated = Repeated(session, {"A": self._array})
        self._repeated.run()

    @property
    def _bytes(self) -> int:
        return 2 * self._array.nbytes

    def _read(self) -> object:
        return self._repeated.run()


@compiled()
def _sum(values: npt.NDArray[np.int64]) -> np.int64:
    """Their sum: the cheapest use of all of them."""
    total = np.int64(0)
    for index in range(values.shape[0]):
        total += values[index]
    return total


def _largest_cache() -> int:
    """Bytes of the processor's last cache; 0 where nothing tells."""
    sizes = (path.read_text().strip() for path in _CACHES.glob("index*/size"))
    return max((int(size[:-1]) << 10 for size in sizes if size.endswith("K") and size[:-1].isdecimal()), default=0)
