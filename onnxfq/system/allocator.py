"""The C library's memory: fresh pages from the system cost up to ten times those a process has already.

Only glibc is told anything; elsewhere these do nothing.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's parameters
_LARGEST_THRESHOLD = 32 << 20  # glibc takes no larger one
_KEPT = 1 << 30  # bytes that may lie unused at the end of the heap


def keep_memory() -> None:
    """Use the memory of arrays of up to 32 MiB again instead of returning it to the system array by array."""
    mallopt = _function("mallopt")
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
        mallopt(_TRIM_THRESHOLD, _KEPT)


def return_memory() -> None:
    """Give all freed memory back to the system."""
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


def _function(name: str) -> Callable[..., int] | None:
    found: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None
    return found
