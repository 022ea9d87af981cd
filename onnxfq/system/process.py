"""What a command's process begins and ends with: standard streams that are there, and signals that end it cleanly."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType

_AGAIN_SECONDS = 0.05  # by then the callback has returned


def occupy_standard_streams() -> None:
    """Open what was closed of stdin, stdout and stderr: no file of ours may get their numbers, which libraries use."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def settle_streams() -> None:
    """Flush stdout and stderr; what they do not take goes nowhere, or Python would exit with a code of its own."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None or stream.closed:
            continue
        try:
            stream.flush()
        except OSError:
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def handle_signals() -> None:
    """Let signals that ask a process to end raise KeyboardInterrupt, except where its starter wants them ignored."""
    interrupter = Interrupter()
    for number in _ending():
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, interrupter)
    sys.unraisablehook = interrupter.dropped


def ignore_signals() -> None:
    """Let nothing disturb the end of a process that is done."""
    for number in _ending():
        signal.signal(number, signal.SIG_IGN)


def _ending() -> list[int]:
    return [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interrupter:
    """A signal handler that gives up: what is cleaned up then is not interrupted by a second signal.

    Python drops what is raised in callbacks of C libraries, such as LLVM's while loops are compiled; then it is raised
    again. From the third signal on, each interrupts again: no run should have to be killed, and what a clean-up leaves,
    the next run removes.
    """

    def __init__(self) -> None:
        self._seen: list[int] = []
        self._usual = sys.unraisablehook

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        self._seen.append(number)
        if len(self._seen) != 2:
            raise KeyboardInterrupt

    def dropped(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Take back an interruption that Python has dropped; tell about anything else as usual."""
        if unraisable.exc_type is not KeyboardInterrupt or not self._seen:
            self._usual(unraisable)
            return
        number = self._seen[-1]
        self._seen.clear()
        with suppress(RuntimeError):  # the interpreter is ending
            again = threading.Timer(_AGAIN_SECONDS, _thread.interrupt_main, [number])
            again.daemon = True
            again.start()
