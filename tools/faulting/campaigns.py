"""Kills, errors of system calls, full disks, read errors, changing sources: one function a campaign."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tools.faulting.judge import Judge
from tools.faulting.places import Place, copy_place, fill
from tools.faulting.runner import READS, WRITES, Fault, Point, Run

T = TypeVar("T")
ERRORS = ("ENOSPC", "EIO", "EDQUOT", "EROFS")
PHASES = {
    "manifest": "onnxfq-work",
    "stage": "stage-",
    "spilled": "kept-",
    "tensors": ".tensors",
    "lock": ".lock",
}


@dataclass(slots=True)
class Campaign:
    """What every campaign needs.

    Attributes:
        judge: looks at what is left.
        random: chooses, by the seed.
        root: of the repository, for runs of their own process.
        quick: fewer of everything.
    """

    judge: Judge
    random: random.Random
    root: Path
    quick: bool = False
    _recorded: dict[tuple[str, ...], list[Point]] = field(default_factory=dict)

    def prepare(self, place: Place) -> Place:
        """Find out what an uninterrupted run leaves, and what an old output looks like."""
        run = self.judge.runner.run
        place.reset(old=False)
        place.remember_source()
        self._succeed(place, run(place.arguments("--bits", "8")))
        place.old = place.visible()
        place.reset(old=False)
        place.seconds = self._succeed(place, run(place.arguments())).seconds
        place.wanted = place.visible()
        return place

    def _succeed(self, place: Place, run: Run) -> Run:
        if run.code:
            raise RuntimeError(f"An undisturbed run in '{place.name}' ended with {run.code}: {run.err}")
        return run

    def is_repeatable(self, place: Place) -> bool:
        """Whether another run gives the bytes that are there."""
        seen = place.visible()
        place.reset(old=False)
        return self.judge.runner.run(place.arguments()).code == 0 and place.visible() == seen

    def points(self, place: Place, calls: Sequence[str], below: Path) -> list[Point]:
        """The system calls of a run about paths below a folder; of many like each other the first and the last."""
        if (place.name, *calls) not in self._recorded:
            place.reset(old=True)
            run, found = self.judge.runner.record(place.arguments(), calls, below)
            self._recorded[place.name, *calls] = found
            self._succeed(place, run)
        found = self._recorded[place.name, *calls]
        last = {(p.call, p.path): p.at for p in found}
        return [p for p in found if p.at <= (1 if self.quick else 3) or p.at == last[p.call, p.path]]

    def at(self, place: Place, point: Point, what: str, kind: str, *more: str, old: bool = True) -> Run:
        """One run with one fault, judged and resumed."""
        place.reset(old=old)
        fault = f"{what} at {point.call} {point.at} of {Path(point.path).name}"
        run = self.judge.runner.run(place.arguments(*more), fault=Fault(point, what))
        outcome = self.judge.judge(place, run, kind, fault)
        if "exit 0" not in outcome:
            self.judge.resume(place, fault)
        return run


def phase(point: Point, place: Place) -> str:
    """What a run was doing at a point, by the file it was about."""
    name = Path(point.path).name
    for what, part in PHASES.items():
        if part in name:
            return what
    if ".replac" in point.path or name.startswith(place.target.name):
        return "output"
    return "folders"


def kills_at_calls(c: Campaign, places: Sequence[Place], most: int) -> None:
    """SIGKILL on entering a writing system call, in every phase."""
    c.judge.campaign = "kills at system calls"
    chosen = [(place, point) for place in places for point in c.points(place, WRITES, place.out)]
    for place, point in _some(c, chosen, most):
        c.at(place, point, "signal=KILL", f"{phase(point, place)}: {point.call}", old=c.random.random() < 0.7)


def kills_at_random(c: Campaign, places: Sequence[Place], most: int) -> None:
    """SIGKILL at any time, again and again until a run with --resume gets through."""
    c.judge.campaign = "kills at random times"
    kills = 0
    while kills < most:
        place = c.random.choice(list(places))
        place.reset(old=c.random.random() < 0.5)
        chain = c.random.choice((1, 1, 2, 4))
        for turn in range(chain):
            moment = c.random.uniform(0.05, 1.05) * place.seconds
            more = ("--resume",) if turn else ()
            run = c.judge.runner.run(place.arguments(*more), meanwhile=_signals(moment, signal.SIGKILL))
            run.hit = run.code == -signal.SIGKILL
            c.judge.judge(place, run, place.name, f"SIGKILL after {moment:.3f} s, turn {turn + 1}")
            kills += 1
        c.judge.resume(place, f"{chain} kills at random times")


def kills_of_processes(c: Campaign, places: Sequence[Place], most: int) -> None:
    """SIGKILL of `python -m onnxfq` itself, from outside."""
    c.judge.campaign = "kills of the installed command"
    for _ in range(most):
        place = c.random.choice(list(places))
        place.reset(old=True)
        moment = c.random.uniform(1.0, 3.0)
        environment = {**os.environ, "PYTHONPATH": str(c.root)}
        command = [sys.executable, "-m", "onnxfq", *place.arguments()]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment) as process:
            try:
                code = process.wait(moment)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
        run = Run(code, "", moment, hit=code == -signal.SIGKILL)
        c.judge.judge(place, run, place.name, f"SIGKILL of the process after {moment:.2f} s")
        c.judge.resume(place, "SIGKILL of the process")


def signals(c: Campaign, places: Sequence[Place], most: int) -> None:
    """SIGINT, SIGTERM and SIGHUP at any time, once or twice in quick succession."""
    c.judge.campaign = "signals"
    for _ in range(most):
        place = c.random.choice(list(places))
        place.reset(old=True)
        numbers = [
            c.random.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP)) for _ in range(c.random.choice((1, 2)))
        ]
        moment = c.random.uniform(0.02, 1.0) * place.seconds
        run = c.judge.runner.run(place.arguments(), meanwhile=_signals(moment, *numbers))
        run.hit = run.code != 0
        names = "+".join(number.name for number in numbers)
        c.judge.judge(place, run, names, f"{names} after {moment:.3f} s")
        if run.seconds > moment + 10:
            c.judge.tally.lose("signals", place.name, names, f"took {run.seconds - moment:.0f} s to end", run.err)
        c.judge.resume(place, names)


def _signals(moment: float, *numbers: signal.Signals) -> Callable[[int, float], None]:
    def send(child: int, began: float) -> None:
        time.sleep(max(0.0, began + moment - time.monotonic()))
        for number in numbers:
            os.kill(child, number)  # a process that has ended is not yet waited for
            time.sleep(0.01 if len(numbers) > 1 else 0)

    return send


def write_errors(c: Campaign, places: Sequence[Place], most: int) -> None:
    """An error of every writing system call, the errors in turn."""
    c.judge.campaign = "write errors"
    chosen = [
        (place, point, ERRORS[(index + 2 * turn) % len(ERRORS)])
        for place in places
        for index, point in enumerate(c.points(place, WRITES, place.out))
        for turn in range(1 if c.quick else 2)
    ]
    for place, point, error in _some(c, chosen, most):
        c.at(place, point, f"error={error}", f"{error}, {phase(point, place)}: {point.call}")


def read_errors(c: Campaign, places: Sequence[Place], most: int) -> None:
    """EIO of every reading system call: of the source, the data, the tensor file, checkpoints, and spilled values."""
    c.judge.campaign = "read errors"
    chosen = [(place, point) for place in places for point in c.points(place, READS, place.home.parent)]
    for place, point in _some(c, chosen, most):
        kind = "source" if Path(point.path).is_relative_to(place.home) else phase(point, place)
        c.at(place, point, "error=EIO", f"{kind}: {point.call}")


def read_errors_of_resumed_runs(c: Campaign, places: Sequence[Place], most: int) -> None:
    """EIO while finished stages are read back."""
    c.judge.campaign = "read errors of resumed runs"
    for place in (place for place in places if place.work is not None):
        kept = place.home.parent / "kept-work"
        _stop_late(c, place)
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(place.out, kept)
        run, found = c.judge.runner.record(place.arguments("--resume"), READS, place.out)
        for point in _some(c, [p for p in found if "stage-" in p.path or "onnxfq-work" in p.path], most):
            shutil.rmtree(place.out)
            shutil.copytree(kept, place.out)
            fault = f"EIO at {point.call} {point.at} of {Path(point.path).name} on --resume"
            run = c.judge.runner.run(place.arguments("--resume"), fault=Fault(point, "error=EIO"))
            c.judge.judge(place, run, f"{phase(point, place)}: {point.call}", fault)
            c.judge.resume(place, fault)
        shutil.rmtree(kept)


def _stop_late(c: Campaign, place: Place) -> None:
    """Kill a run just before it moves its output into place."""
    points = [p for p in c.points(place, ("rename",), place.out) if ".partial" in p.path and "stage" not in p.path]
    place.reset(old=True)
    c.judge.runner.run(place.arguments(), fault=Fault(points[0], "signal=KILL"))


def changing_sources(c: Campaign, places: Sequence[Place], most: int) -> None:
    """The source, or the data, changed, cut short, replaced or removed at any time while a run reads it."""
    c.judge.campaign = "changing sources"
    for _ in range(most):
        original = c.random.choice(list(places))
        home = original.home.parent / "changing"
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(original.home, home)
        place = copy_place(original, home / original.source.relative_to(original.home), home)
        place.reset(old=True)
        place.remember_source()
        file = c.random.choice(sorted(p for p in home.rglob("*") if p.suffix in (".onnx", ".data", ".npz")))
        name, change = c.random.choice(list(_CHANGES.items()))
        moment = c.random.uniform(0.02, 1.0) * place.seconds
        before, status = file.read_bytes(), file.stat()
        run = c.judge.runner.run(place.arguments(), meanwhile=_stopped(moment, lambda: change(file)))  # noqa: B023
        changed = file.read_bytes() if file.exists() else None
        if run.code == 0 and place.visible() != place.wanted and c.is_repeatable(place):
            c.judge.tally.count(
                c.judge.campaign, f"{name}, {file.suffix[1:]}", "exit 0, of the changed source as a whole"
            )
            continue
        file.write_bytes(before)
        file.chmod(status.st_mode)
        os.utime(file, ns=(status.st_mtime_ns, status.st_mtime_ns))
        fault = f"{name}: {file.name} after {moment:.3f} s"
        if run.code == -signal.SIGBUS:
            c.judge.tally.count("changing sources", name, "SIGBUS in ONNX Runtime's memory map")
            run.code = -signal.SIGKILL
        run.hit = changed != before or run.code != 0
        c.judge.judge(place, run, f"{name}, {file.suffix[1:]}", fault)
        c.judge.resume(place, fault)
        shutil.rmtree(home)


def _stopped(moment: float, change: Callable[[], None]) -> Callable[[int, float], None]:
    """Hold a process while something is done."""

    def hold(child: int, began: float) -> None:
        time.sleep(max(0.0, began + moment - time.monotonic()))
        os.kill(child, signal.SIGSTOP)
        try:
            change()
        finally:
            os.kill(child, signal.SIGCONT)

    return hold


def _flipped(file: Path) -> bytes:
    """Other bytes that are as valid: only in what must be weights or data."""
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    return bytes(data)


def _overwrite(file: Path) -> None:
    file.write_bytes(_flipped(file))


def _overwrite_secretly(file: Path) -> None:
    stamp = file.stat().st_mtime_ns
    with file.open("r+b") as stream:
        stream.write(_flipped(file))
    os.utime(file, ns=(stamp, stamp))


def _replace(file: Path) -> None:
    """By another file with the same size and times, as synchronising programs do."""
    other = file.with_name(file.name + ".new")
    other.write_bytes(_flipped(file))
    os.utime(other, ns=(file.stat().st_mtime_ns,) * 2)
    other.replace(file)


def _truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 3)


def _remove(file: Path) -> None:
    file.unlink()


_CHANGES: dict[str, Callable[[Path], None]] = {
    "other bytes": _overwrite,
    "other bytes, time restored": _overwrite_secretly,
    "another file, same size and time": _replace,
    "cut short": _truncate,
    "removed": _remove,
}


def full_disks(c: Campaign, places: Sequence[Place], most: int) -> None:
    """Disks of all sizes, and disks that something else fills while a run writes."""
    c.judge.campaign = "full disks"
    for place in places:
        for size in _some(c, list(range(4, 400, 12)), most):
            with _disk(place.out, size) as mounted:
                if not mounted:
                    c.judge.tally.count("full disks", "mount", "not allowed here")
                    return
                run = c.judge.runner.run(place.arguments())
                _judge_disk(c, place, run, "sizes", f"a disk of {size} kB")
        for _ in range(most // 2):
            moment = c.random.uniform(0.05, 1.0) * place.seconds
            with _disk(place.out, 1000):
                ballast = place.out / "ballast"

                def spoil(_child: int, began: float, moment: float = moment, ballast: Path = ballast) -> None:
                    time.sleep(max(0.0, began + moment - time.monotonic()))
                    fill(ballast)

                run = c.judge.runner.run(place.arguments(), meanwhile=spoil)
                ballast.unlink()
                _judge_disk(c, place, run, "filled meanwhile", f"filled after {moment:.3f} s")


def _judge_disk(c: Campaign, place: Place, run: Run, kind: str, fault: str) -> None:
    run.hit, place.start = run.code != 0, {}
    c.judge.judge(place, run, kind, fault)
    if run.code and kind == "filled meanwhile":
        c.judge.resume(place, fault)


class _disk:  # noqa: N801 - used like a function
    """A small tmpfs in place of a folder."""

    def __init__(self, folder: Path, kilobytes: int) -> None:
        self._folder, self._size, self._mounted = folder, kilobytes, False

    def __enter__(self) -> bool:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={self._size}k", "tmpfs", str(self._folder)]
        self._mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
        return self._mounted

    def __exit__(self, *_: object) -> None:
        if self._mounted:
            subprocess.run(["umount", str(self._folder)], check=True)


def same_bytes(c: Campaign, places: Sequence[Place], most: int) -> None:
    """One or two threads, no or much memory, resumed or not: the same bytes."""
    c.judge.campaign = "same bytes"
    for place in places[: max(1, most // 20)]:
        for threads in ("1", "2"):
            for memory in ("0", "20kB", "2GB"):
                for kills in (0, 2):
                    more = ("--threads", threads, "--memory", memory)
                    place.reset(old=True)
                    for turn in range(kills):
                        run = c.judge.runner.run(
                            place.arguments(*more, *(["--resume"] if turn else [])),
                            meanwhile=_signals(c.random.uniform(0.3, 0.9), signal.SIGKILL),
                        )
                        c.judge.tally.kills += run.code == -signal.SIGKILL
                    run = c.judge.runner.run(place.arguments(*more, *(["--resume"] if kills else [])))
                    same = run.code == 0 and place.visible() == place.wanted and not place.leftovers()
                    kind = f"{threads} threads, {memory}, {kills} kills"
                    c.judge.tally.count("same bytes", kind, "same" if same else "other")
                    if not same:
                        c.judge.tally.lose("same bytes", place.name, kind, f"exit {run.code}, other bytes", run.err)


def _some(c: Campaign, items: Sequence[T], most: int) -> Iterator[T]:
    """So many of them in a random order."""
    yield from c.random.sample(list(items), min(most, len(items)))
