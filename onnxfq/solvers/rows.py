"""Work on fixed chunks of rows on several threads: who works on which chunk changes no result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import numpy as np

from onnxfq.system.threads import products_alone, thread_count

_FEW, _MANY = 64, 128  # rows of a chunk; never derived from the number of threads
_LANES = 16  # what vector units hold
_TOGETHER = 4  # chunks of a large weight are a multiple of this, for as many threads to have the same work

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
    size = _chunk(n)
    chunks = [slice(start, min(n, start + size)) for start in range(0, n, size)]
    with (
        products_alone(),
        ThreadPoolExecutor(thread_count()) as pool,
        np.errstate(over="ignore", invalid="ignore"),
    ):

        def each(work: Callable[[slice], None]) -> None:
            for _ in pool.map(partial(_quietly, work), chunks):
                pass

        yield each


def _chunk(n: int) -> int:
    """Rows of a chunk: the more the faster, as long as all threads have some."""
    if n < _FEW * _TOGETHER:
        return _FEW
    pieces = -(-n // (_MANY * _TOGETHER)) * _TOGETHER
    return -(-n // (pieces * _LANES)) * _LANES


def _quietly(work: Callable[[slice], None], rows: slice) -> None:
    with np.errstate(over="ignore", invalid="ignore"):  # every thread has its own
        work(rows)
