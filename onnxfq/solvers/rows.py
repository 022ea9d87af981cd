"""Work on fixed chunks of rows on several threads: who works on which chunk changes no result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import numba
from threadpoolctl import ThreadpoolController

CHUNK = 64  # rows; never derived from the number of threads

EachChunk = Callable[[Callable[[slice], None]], None]


@contextmanager
def row_threads(n: int) -> Iterator[EachChunk]:
    """Threads for the rows of one weight.

    Inside, matrix products run on the calling thread alone: how they are summed up depends on how many threads share
    one. Work handed over must not call loops compiled with `parallel=True`, which one thread may enter at a time.

    Args:
        n: how many rows there are.

    Yields:
        A function that calls what it is given with every chunk of rows, and returns once all are done.
    """
    chunks = [slice(start, min(n, start + CHUNK)) for start in range(0, n, CHUNK)]
    with _blas().limit(limits=1, user_api="blas"), ThreadPoolExecutor(numba.get_num_threads()) as pool:

        def each(work: Callable[[slice], None]) -> None:
            for _ in pool.map(work, chunks):
                pass

        yield each


@cache
def _blas() -> ThreadpoolController:
    """Found once: looking through all loaded libraries takes longer than solving a small weight."""
    return ThreadpoolController()
