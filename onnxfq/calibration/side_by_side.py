"""Short samples run side by side, each on one thread.

Threads that share an operator must be woken for each, which takes longer than the few tokens of a sentence: a sample on
every thread takes a third of the processor time, and gives the same bits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from onnxfq.providers import ProviderName, facts
from onnxfq.system.threads import thread_count

_TOKENS_AT_ONCE = 2048  # of all samples that run at one time: a chunk of the statistics, which is in memory too

Item = TypeVar("Item")
Result = TypeVar("Result")


def runs_at_once(provider: ProviderName, threads: int | None, longest: int) -> int:
    """How many samples to run at one time, each on one thread; 1 where threads do better inside operators.

    Args:
        provider: where they run.
        threads: to use at most; None for all.
        longest: tokens of the longest sample.
    """
    count = min(thread_count(), threads or thread_count())
    return count if facts(provider).host_memory and count * longest <= _TOKENS_AT_ONCE else 1


def in_order(work: Callable[[Item], Result], items: Iterable[Item], at_once: int) -> Iterator[Result]:
    """Work on some items at a time; results come in their order, whichever is done first."""
    if at_once <= 1:
        yield from map(work, items)
        return
    waiting = deque[Future[Result]]()
    with ThreadPoolExecutor(at_once, thread_name_prefix="onnxfq-samples") as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > at_once:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
