"""Runs onnxfq's command line in forks of a process that has imported everything, with faults put into system calls."""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tools.faulting.hooks import hook

WRITES = (
    "openat", "write", "pwrite64", "fsync", "ftruncate", "copy_file_range", "sendfile", "rename", "renameat",
    "renameat2", "link", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir", "flock",
)  # fmt: skip
READS = ("openat", "read", "pread64", "preadv", "mmap", "newfstatat", "fstat", "statx", "getdents64")
TIMEOUT = 240.0  # seconds
HUNG = -99  # in place of an exit code

_CALL = re.compile(r"^(?P<thread>\d+) +(?P<name>\w+)\((?P<rest>.*)$")
_PATH = re.compile(r'"(/[^"]*)"|\d+<(/[^>]*)>|AT_FDCWD<[^>]*>')


@dataclass(frozen=True, slots=True)
class Point:
    """One system call of a run: the call number `at` of its name that is about a path."""

    call: str
    path: str
    at: int


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at a point, in strace's words: "signal=KILL", "error=EIO" and the like."""

    point: Point
    what: str

    def arguments(self) -> list[str]:
        """For strace."""
        point = self.point
        inject = f"inject={point.call}:{self.what}:when={point.at}"
        return ["-P", point.path, "-e", f"trace={point.call}", "-e", inject]


@dataclass(slots=True)
class Run:
    """What became of a command line.

    Attributes:
        code: exit code; negative for a signal.
        err: what it wrote on stderr.
        seconds: how long it took.
        calls: system calls that were recorded, in order, where they were.
        hit: whether the fault happened.
    """

    code: int
    err: str
    seconds: float
    calls: list[Point] = field(default_factory=list)
    hit: bool = True


def has_strace() -> bool:
    """Whether strace is there and may trace."""
    strace = shutil.which("strace")
    if strace is None:
        return False
    return subprocess.run([strace, "-qq", "-o", os.devnull, "true"], capture_output=True, check=False).returncode == 0


class Runner:
    """Forks and runs.

    Args:
        folder: for what runs print and what strace records.
        traces: whether faults go into system calls; otherwise into the functions of `os`.
    """

    def __init__(self, folder: Path, *, traces: bool) -> None:
        os.environ["COLUMNS"] = "400"
        import onnx  # noqa: F401 - children find it imported
        import onnx_graphsurgeon  # noqa: F401
        import onnxruntime  # noqa: F401

        from onnxfq import cli, pipeline  # noqa: F401
        from onnxfq.commands import (
            tables,  # noqa: F401
        )

        folder.mkdir(parents=True, exist_ok=True)
        self._cli, self._folder, self._traces = cli, folder, traces
        self.runs = 0

    def run(
        self,
        arguments: Sequence[str | Path],
        *,
        fault: Fault | None = None,
        recorded: Sequence[str] = (),
        before: Callable[[], None] | None = None,
        meanwhile: Callable[[int, float], None] | None = None,
        name: str = "run",
    ) -> Run:
        """Run one command line.

        Args:
            arguments: of `onnxfq`.
            fault: what happens on the way.
            recorded: system calls to list.
            before: called in the new process.
            meanwhile: called with the process's id and when it began.
            name: of what is printed, where two run at once.
        """
        self.runs += 1
        err, log = self._folder / f"{name}.err", self._folder / f"{name}.log"
        strace = fault.arguments() if fault else ["-e", f"trace={','.join(recorded)}"] if recorded else []
        if strace and not self._traces:
            given, strace = before, []
            before = functools.partial(_hooked, given, log, fault)
            log.unlink(missing_ok=True)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})  # in the child it says that strace is there
        child = os.fork()
        if not child:
            self._become([str(a) for a in arguments], err, before, wait=bool(strace))
        tracer = self._attach(child, strace, log) if strace else None
        began = time.monotonic()
        if tracer is not None:
            os.kill(child, signal.SIGUSR1)
        if meanwhile is not None:
            meanwhile(child, began)
        code = _wait(child)
        if tracer is not None:
            tracer.wait(TIMEOUT)
        text = log.read_text(errors="replace") if (fault or recorded) and log.exists() else ""
        hit = fault is None or "(INJECTED)" in text or code == -signal.SIGKILL
        told = err.read_text(errors="replace") if err.exists() else ""
        return Run(code, told, time.monotonic() - began, _calls(text), hit)

    def record(self, arguments: Sequence[str | Path], calls: Sequence[str], below: Path) -> tuple[Run, list[Point]]:
        """Run one command line as it is, and list its system calls about paths below a folder."""
        run = self.run(arguments, recorded=calls)
        return run, [point for point in run.calls if Path(point.path).is_relative_to(below)]

    def _become(self, arguments: list[str], err: Path, before: Callable[[], None] | None, *, wait: bool) -> None:
        """The child's whole life."""
        code = 99
        try:
            target = os.open(err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(target, 2)
            if wait:
                signal.sigwait({signal.SIGUSR1})
            if before is not None:
                before()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.argv = ["onnxfq", *arguments]
            self._cli.main()
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 98
        except KeyboardInterrupt:
            code = 130
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _attach(self, child: int, strace: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        command = ["strace", "-f", "-qq", "-y", "-s", "0", "-o", str(log), *strace, "-p", str(child)]
        tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        until = time.monotonic() + TIMEOUT
        while not _is_traced(child):
            if tracer.poll() is not None or time.monotonic() > until:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                raise RuntimeError(f"strace cannot trace here ({' '.join(command)}).")
            time.sleep(0.001)
        return tracer


def _hooked(before: Callable[[], None] | None, log: Path, fault: Fault | None) -> None:
    if before is not None:
        before()
    hook(log, *(() if fault is None else (fault.point.call, fault.point.path, fault.point.at, fault.what)))


def _wait(child: int) -> int:
    """The exit code; only time in which this process runs counts, for both may be paused together."""
    waited, last = 0.0, time.monotonic()
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        now = time.monotonic()
        waited, last = waited + min(now - last, 0.1), now
        if waited > TIMEOUT:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return HUNG
        time.sleep(0.002)


def _is_traced(child: int) -> bool:
    lines = Path(f"/proc/{child}/status").read_text().splitlines()
    return any(line.startswith("TracerPid:") and line.split()[1] != "0" for line in lines)


def _calls(log: str) -> list[Point]:
    """The calls of a log, numbered by name, path and thread: strace counts those of each thread on their own."""
    counts: Counter[tuple[str, str, str]] = Counter()
    points = []
    for line in log.splitlines():
        match = _CALL.match(line)
        if match is None:
            continue
        paths = dict.fromkeys(a or b for a, b in _PATH.findall(match["rest"].split(" = ")[0]))
        for path in list(paths)[: 1 if match["name"].startswith("rename") else None]:
            if path:
                key = (match["name"], path, match["thread"])
                counts[key] += 1
                points.append(Point(match["name"], path, counts[key]))
    return list(dict.fromkeys(points))
