"""How many threads work: rows shared out among them, for compiled loops, and products on one alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import cache
from itertools import pairwise
from typing import Concatenate, ParamSpec

from threadpoolctl import ThreadpoolController

Arguments = ParamSpec("Arguments")

_PARTS = 4  # for each thread: on a busy machine some threads get further than others
_limit: ContextVar[int | None] = ContextVar("limit", default=None)


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_count() -> int:
    """How many threads may work at once."""
    return min(processors(), _limit.get() or processors())


@contextmanager
def limited_threads(count: int | None) -> Iterator[None]:
    """Let this thread, and whoever works for it, use at most so many threads; None leaves it as it is."""
    before = _limit.set(count or _limit.get())
    try:
        yield
    finally:
        _limit.reset(before)


def products_alone() -> AbstractContextManager[object]:
    """Inside, every matrix product runs on one thread."""
    limit: AbstractContextManager[object] = _blas().limit(limits=1, user_api="blas")
    return limit


@cache
def _blas() -> ThreadpoolController:
    """Found once: looking through all loaded libraries takes longer than solving a small weight."""
    return ThreadpoolController()


def spread(
    loop: Callable[Concatenate[int, int, Arguments], None],
    count: int,
    *arguments: Arguments.args,
    **named: Arguments.kwargs,
) -> None:
    """Call `loop(begin, end, *arguments)` for ranges that are 0 to `count` together, on several threads.

    Which thread gets which range is left to chance: what a loop does for a row must not depend on other rows.
    """
    threads = min(thread_count(), count)
    if threads <= 1:
        loop(0, count, *arguments, **named)
        return
    pieces = min(count, _PARTS * threads)
    ranges = iter(list(pairwise(count * piece // pieces for piece in range(pieces + 1))))

    def work() -> None:
        for begin, end in ranges:
            loop(begin, end, *arguments, **named)

    helping = [_pool().submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        for helper in helping:
            if not helper.cancel():  # those that have not begun find nothing left
                helper.result()


@cache
def _pool() -> ThreadPoolExecutor:
    """Threads that are kept: starting them takes longer than a small weight."""
    return ThreadPoolExecutor(max(1, processors() - 1), thread_name_prefix="onnxfq-rows")


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
