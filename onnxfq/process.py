"""What a command's process begins and ends with: standard streams that are there, and signals that end it cleanly."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType


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
    interrupt = interrupter()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, interrupt)


def interrupter() -> Callable[[int, FrameType | None], None]:
    """A signal handler that gives up: what is cleaned up then is not interrupted by a second signal.

    From the third on, each interrupts again: the first may have come where Python drops exceptions, such as in a
    destructor, and a run that cannot be ended would be killed. What a clean-up then leaves, the next run removes.
    """
    seen: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        if len(seen) != 2:
            raise KeyboardInterrupt

    return interrupt
