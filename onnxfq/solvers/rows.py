"""Work on fixed chunks of rows on several threads: who works on which chunk changes no result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial

import numpy as np
from threadpoolctl import ThreadpoolController

from onnxfq.system.threads import thread_count

CHUNK = 64  # rows; never derived from the number of threads

EachChunk = Callable[[Callable[[slice], None]], None]


@contextmanager
def row_threads(n: int) -> Iterator[EachChunk]:
    """Threads for the rows of one weight.

    Inside, matrix products run on the calling thread alone: how they are summed up depends on how many threads share
    one. Sums beyond float32 are no reason for a warning: whoever compares results finds them not to be numbers.

    Args:
        n: how many rows there are.

    Yields:
        A function that calls what it is given with every chunk of rows, and returns once all are done.
    """
    chunks = [slice(start, min(n, start + CHUNK)) for start in range(0, n, CHUNK)]
    with (
        products_alone(),
        ThreadPoolExecutor(thread_count()) as pool,
        np.errstate(over="ignore", invalid="ignore"),
    ):

        def each(work: Callable[[slice], None]) -> None:
            for _ in pool.map(partial(_quietly, work), chunks):
                pass

        yield each


def products_alone() -> AbstractContextManager[object]:
    """Inside, every matrix product runs on one thread."""
    limit: AbstractContextManager[object] = _blas().limit(limits=1, user_api="blas")
    return limit


def _quietly(work: Callable[[slice], None], rows: slice) -> None:
    with np.errstate(over="ignore", invalid="ignore"):  # every thread has its own
        work(rows)


@cache
def _blas() -> ThreadpoolController:
    """Found once: looking through all loaded libraries takes longer than solving a small weight."""
    return ThreadpoolController()
