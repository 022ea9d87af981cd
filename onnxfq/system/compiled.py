"""Compiled loops: numba, its machine code kept for later runs, wherever they are started from.

Nothing is compiled with numba's own threads: that takes several times as long, and `threads.spread` is as fast.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from numba import njit

from onnxfq.system.loop_cache import LoopCache, cache_folder

Loop = TypeVar("Loop", bound=Callable[..., object])


def compiled(*, fastmath: frozenset[str] = frozenset()) -> Callable[[Loop], Loop]:
    """Compile a function of arrays and numbers on its first call; other Python threads may run while it does.

    The machine code is kept for the next run, see `loop_cache`. Division by zero gives infinity, as in numpy: loops
    that look out for it do not go into vector units, and rounding to nearest takes twice as long.

    Args:
        fastmath: LLVM's flags for floating-point freedom; none by default, so that results are the same everywhere.
    """

    def decorate(loop: Loop) -> Loop:
        made = njit(nogil=True, error_model="numpy", fastmath=set(fastmath) or False)(loop)
        if cache_folder() is not None:
            with suppress(OSError):  # no source to tell its code by, as in an archive: it is compiled each time
                made._cache = LoopCache(loop)
        result: Loop = made
        return result

    return decorate
