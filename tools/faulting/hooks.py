"""Where there is no strace: faults in the functions of Python's `os` module, which see fewer calls."""

from __future__ import annotations

import errno
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

# Functions of `os` and the system calls that they stand for.
CALLS = {
    "open": "openat",
    "write": "write",
    "fsync": "fsync",
    "rename": "rename",
    "replace": "rename",
    "unlink": "unlink",
    "mkdir": "mkdir",
    "rmdir": "rmdir",
    "copy_file_range": "copy_file_range",
}


def hook(log: Path, call: str = "", path: str = "", at: int = 0, what: str = "") -> None:
    """Let all calls from now on be written down, and one of them fail or kill.

    Args:
        log: one line a call, as strace writes them.
        call: the system call that the fault is in; none without.
        path: the file it is about.
        at: which of those calls.
        what: "signal=KILL" or "error=ENOSPC" and the like.
    """
    counts: Counter[tuple[str, str]] = Counter()
    write, target = os.write, os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)

    def hooked(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def function(*args: object, **kwargs: object) -> object:
            about = _path(args[1] if name == "copy_file_range" else args[0])
            counts[CALLS[name], about] += 1
            hit = (CALLS[name], about, counts[CALLS[name], about]) == (call, path, at)
            write(target, f'0 {CALLS[name]}("{about}"){" (INJECTED)" if hit else ""}\n'.encode())
            if hit and what == "signal=KILL":
                os.kill(os.getpid(), signal.SIGKILL)
            if hit:
                number = getattr(errno, what.removeprefix("error="))
                raise OSError(number, os.strerror(number), about)
            return real(*args, **kwargs)

        return function

    for name in CALLS:
        if hasattr(os, name):
            setattr(os, name, hooked(name, getattr(os, name)))


def _path(what: object) -> str:
    if isinstance(what, int):
        return str(Path(f"/proc/self/fd/{what}").readlink())
    return str(Path.cwd() / os.fsdecode(what)) if isinstance(what, str | bytes | os.PathLike) else ""
