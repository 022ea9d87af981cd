"""Compiled loops: numba, with its cache on disk wherever there is a place for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numba
from numba import njit

Loop = TypeVar("Loop", bound=Callable[..., object])


def compiled(
    *, parallel: bool = False, nogil: bool = False, fastmath: frozenset[str] = frozenset()
) -> Callable[[Loop], Loop]:
    """Compile a function of arrays and numbers on its first call.

    The machine code is kept for the next run. Where neither the package's folder nor the user's can be written, as in
    many containers, numba refuses a cache: then every run compiles anew, which costs some seconds and nothing else.

    Args:
        parallel: run `prange` loops on several threads; to be called from one Python thread at a time.
        nogil: let other Python threads run meanwhile, which may call the same loop on other rows.
        fastmath: LLVM's flags for floating-point freedom; none by default, so that results are the same everywhere.
    """

    def decorate(loop: Loop) -> Loop:
        flags = set(fastmath) or False
        try:
            made: Loop = njit(parallel=parallel, nogil=nogil, fastmath=flags, cache=True)(loop)
        except RuntimeError:
            made = njit(parallel=parallel, nogil=nogil, fastmath=flags)(loop)
        return made

    return decorate


@contextmanager
def limited_threads(count: int | None) -> Iterator[None]:
    """Let compiled loops, and whoever asks them, use at most so many threads; None leaves it as it is."""
    before = numba.get_num_threads()
    numba.set_num_threads(min(count or before, numba.config.NUMBA_NUM_THREADS))
    try:
        yield
    finally:
        numba.set_num_threads(before)
