"""Where the machine code of compiled loops is kept: in the user's cache, for every environment that has the same loops.

Numba keeps it beside the source, by that file's place: a new environment, or the same one after an installation,
compiles everything again, which takes seconds. Here a folder is named after all that decides about the machine code
but the processor, which numba notes itself: the source of all loops, since loops are compiled into each other, how they
are compiled, and the versions of numba and LLVM. Two copies of the same loops share it; other loops never find it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core import config
from numba.core.caching import CompileResultCacheImpl, FunctionCache

from onnxfq.system.user_cache import cache_roots, is_own

_LOGGER = logging.getLogger(__name__)
_PACKAGE = Path(__file__).resolve().parents[1]
_KEPT_DAYS = 90  # machine code that nobody has asked for so long goes
_MARK = b"system.compiled import"  # in every file with loops
_SETTINGS = Path("system", "compiled.py")
_compiling: ContextVar[Callable[[], None] | None] = ContextVar("compiling", default=None)


@contextmanager
def announced(tell: Callable[[], None]) -> Iterator[None]:
    """Inside, `tell` is called before the first loop is compiled in this thread, if one has to be."""
    before = _compiling.set(tell)
    try:
        yield
    finally:
        _compiling.reset(before)


class LoopCache(FunctionCache):  # type: ignore[misc] # numba has no types
    """The machine code of one loop. What cannot be read is compiled, what cannot be written is compiled next time."""

    def load_overload(self, sig: object, target_context: object) -> Any:  # noqa: ANN401 - numba's result
        """What is kept for a signature; None where it is to be compiled."""
        found = None
        try:
            found = super().load_overload(sig, target_context)
        except Exception as error:  # noqa: BLE001 - a garbled file may raise anything: it is compiled anew
            _LOGGER.debug("machine code cannot be read: %s", error)
            with suppress(OSError):
                self.flush()
        tell = _compiling.get()
        if found is None and tell is not None:
            _compiling.set(None)
            tell()
        return found

    def save_overload(self, sig: object, data: object) -> None:
        """Keep what was compiled for a signature."""
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _LOGGER.debug("machine code cannot be kept: %s", error)


class _LoopPlace:
    """What numba asks about the place of a loop's machine code."""

    def __init__(self, loop: Callable[..., object], file: str) -> None:
        self._py_file, self._first_line = file, loop.__code__.co_firstlineno
        known = getattr(loop, "__globals__", {}).items()  # numbers of other files are part of the machine code
        self._numbers = sorted(
            (name, repr(value)) for name, value in known if isinstance(value, int | float | np.number)
        )

    @classmethod
    def from_function(cls, loop: Callable[..., object], file: str) -> _LoopPlace:
        return cls(loop, file)

    def get_cache_path(self) -> str:
        return str(cache_folder())

    def ensure_cache_path(self) -> None:
        Path(self.get_cache_path()).mkdir(parents=True, exist_ok=True)

    def get_source_stamp(self) -> str:
        return hashlib.sha256(Path(self._py_file).read_bytes() + repr(self._numbers).encode()).hexdigest()

    def get_disambiguator(self) -> str:
        return str(self._first_line)


class _OwnPlace(CompileResultCacheImpl):  # type: ignore[misc] # numba has no types
    _locator_classes = (_LoopPlace,)


LoopCache._impl_class = _OwnPlace


@cache
def cache_folder() -> Path | None:
    """The folder for the loops of this package; None where nothing can be kept, and every run compiles anew.

    `NUMBA_CACHE_DIR` names another place; without it, it is `onnxfq` in the user's cache folder. Where that cannot
    be written, as in many containers, a folder of the user's own among temporary files.
    """
    name = f"loops-{_digest()}"
    for root in _roots():
        folder = root / name
        with suppress(OSError):
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            if is_own(folder) and is_own(root):  # what lies there is run
                tempfile.TemporaryFile(dir=folder).close()
                _remove_old(root, folder)
                return folder
    _LOGGER.debug("no folder for machine code can be written: every run compiles anew")
    return None


def _roots() -> Iterator[Path]:
    if config.CACHE_DIR:
        yield Path(config.CACHE_DIR) / "onnxfq"
    else:
        yield from cache_roots()


def _digest() -> str:
    """All that machine code is made from but the processor."""
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__} {sys.implementation.cache_tag}".encode())
    for path in sorted(_PACKAGE.rglob("*.py")):
        text = path.read_bytes()
        if _MARK in text or path.relative_to(_PACKAGE) == _SETTINGS:
            digest.update(f"{path.relative_to(_PACKAGE).as_posix()}\0".encode() + text)
    return digest.hexdigest()[:16]


def _remove_old(root: Path, used: Path) -> None:
    """Forget what was made for other loops long ago."""
    now = time.time()
    os.utime(used)
    for folder in root.glob("loops-*"):
        with suppress(OSError):
            if folder != used and now - folder.stat().st_mtime > _KEPT_DAYS * 86400:
                shutil.rmtree(folder, ignore_errors=True)
