"""Two runs at once, closed folders, links, other disks, reports that fail: what each must end with."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tools.faulting.campaigns import Campaign
from tools.faulting.judge import told
from tools.faulting.places import Place, contents
from tools.faulting.runner import Run

_CAPABILITIES_VERSION, _DAC_OVERRIDE = 0x20080522, 1
_SHM = Path("/dev/shm")


class NotAllowedError(Exception):
    """This machine does not let the scenario be set up."""


def odd_places(c: Campaign, places: list[Place], most: int) -> None:
    """Every scenario in every place it suits."""
    c.judge.campaign = "odd places"
    for place in places[: max(1, most // 10)]:
        for name, scenario in SCENARIOS.items():
            place.reset(old=True)
            try:
                wrong = scenario(c, place)
            except NotAllowedError as error:
                c.judge.tally.count("odd places", name, f"left out: {error}")
                continue
            c.judge.tally.faults += 1
            c.judge.tally.count("odd places", name, "as it should be" if not wrong else "wrong")
            if not place.is_untouched():
                wrong.append("the source was touched")
            for what in wrong:
                c.judge.tally.lose("odd places", place.name, name, what)


def _expect(run: Run, code: int, says: str = "") -> list[str]:
    """What differs from a run that ends with a code and a message."""
    wrong = [] if run.code == code else [f"exit {run.code}, wanted {code}: {run.err[-400:]}"]
    wrong += [] if says in run.err else [f"does not say '{says}': {run.err[-400:]}"]
    return wrong + (["a traceback"] if "Traceback" in run.err else [])


def _old_is_there(place: Place) -> list[str]:
    left = place.leftovers()
    wrong = [] if place.visible() == place.old else ["the old output is not as it was"]
    return wrong + ([f"left behind: {left}"] if left else [])


def _new_is_there(place: Place) -> list[str]:
    left = place.leftovers()
    wrong = [] if place.visible() == place.wanted else ["the new output is not there"]
    return wrong + ([f"left behind: {left}"] if left else [])


def _second_run(c: Campaign, place: Place, says: str, *changes: str) -> list[str]:
    """Start another run while one holds its locks; the first must not notice."""
    folder, others = place.target.parent, list[Run]()

    def second(child: int, _began: float) -> None:
        lock = place.target.with_name(f".{place.target.name}.lock")
        waited = time.monotonic() + 60
        ready = lock if not changes else (place.work or lock) / "onnxfq-work.json"
        while not ready.exists() and not list(folder.rglob("onnxfq-work.json")) and time.monotonic() < waited:
            time.sleep(0.001)
        os.kill(child, signal.SIGSTOP)
        try:
            others.append(c.judge.runner.run(place.arguments(*changes), name="second"))
        finally:
            os.kill(child, signal.SIGCONT)

    first = c.judge.runner.run(place.arguments(), meanwhile=second)
    return _expect(others[0], 3, says) + _expect(first, 0) + _new_is_there(place)


def two_runs_on_one_output(c: Campaign, place: Place) -> list[str]:
    """The second is refused, the first goes on."""
    return _second_run(c, place, "Another run is writing")


def two_runs_on_one_work_directory(c: Campaign, place: Place) -> list[str]:
    """The second is refused, the first goes on."""
    if place.work is None or place.source.is_dir():
        raise NotAllowedError("runs without one, or with several")
    other = place.out.parent / "other.onnx"
    return _second_run(c, place, "Another run is using the work", "-o", str(other), "--work-dir", str(place.work))


@contextmanager
def _read_only(folder: Path) -> Iterator[None]:
    """A folder that even root cannot write to."""
    command = ["mount", "--bind", str(folder), str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        raise NotAllowedError("mounting is not allowed")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True, capture_output=True)
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def a_read_only_output_folder(c: Campaign, place: Place) -> list[str]:
    """Refused before any work."""
    with _read_only(place.out):
        run = c.judge.runner.run(place.arguments())
    return _expect(run, 3, "Read-only file system") + _old_is_there(place)


def a_read_only_work_folder(c: Campaign, place: Place) -> list[str]:
    """Refused, and the output stays."""
    if place.work is None:
        raise NotAllowedError("data-free runs have none")
    closed = place.out.parent / "closed"
    closed.mkdir(exist_ok=True)
    with _read_only(closed):
        run = c.judge.runner.run(place.arguments("--work-dir", closed / "w"))
    closed.rmdir()
    return _expect(run, 3, "Read-only file system") + _old_is_there(place)


def a_read_only_source(c: Campaign, place: Place) -> list[str]:
    """That is all a source needs to be."""
    with _read_only(place.home):
        run = c.judge.runner.run(place.arguments())
    return _expect(run, 0) + _new_is_there(place)


def a_folder_without_the_right_to_write(c: Campaign, place: Place) -> list[str]:
    """Refused before any work; root gives up its own right first."""
    place.out.chmod(0o555)
    try:
        run = c.judge.runner.run(place.arguments(), before=_give_up_overriding)
    finally:
        place.out.chmod(0o755)
    return _expect(run, 3, "Permission denied") + _old_is_there(place)


def _give_up_overriding() -> None:
    """Let permissions hold for root too: give up CAP_DAC_OVERRIDE."""
    libc = ctypes.CDLL(None)
    header, sets = (ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION, 0), (ctypes.c_uint32 * 6)()
    libc.capget(header, sets)
    for which in range(3):  # effective, permitted, inheritable
        sets[which] &= ~(1 << _DAC_OVERRIDE)
    libc.capset(header, sets)


def an_immutable_old_output(c: Campaign, place: Place) -> list[str]:
    """What cannot be replaced stays."""
    if place.source.is_dir():
        raise NotAllowedError("a folder moves with all that is in it")
    if subprocess.run(["chattr", "+i", str(place.target)], capture_output=True, check=False).returncode:
        raise NotAllowedError("chattr is not there or does not work on this file system")
    try:
        run = c.judge.runner.run(place.arguments())
    finally:
        subprocess.run(["chattr", "-i", str(place.target)], check=True, capture_output=True)
    left = place.leftovers()
    wrong = [] if place.visible() == place.old else ["the old output is not as it was"]
    wrong += [] if told(run.err, left, place) else [f"left behind without a word: {left}"]  # solved stages are kept
    return _expect(run, 3, "Operation not permitted") + wrong


def _linked(c: Campaign, place: Place, target: Path) -> list[str]:
    """A link in the output's place is replaced; what it leads to stays."""
    if place.source.is_dir():
        raise NotAllowedError("for files only")
    shutil.rmtree(place.out)
    place.out.mkdir()
    place.target.symlink_to(target)
    before = target.read_bytes() if target.exists() else None
    run = c.judge.runner.run(place.arguments())
    after = target.read_bytes() if target.exists() else None
    wrong = [] if before == after else ["what the link led to was changed"]
    return wrong + _expect(run, 0) + _new_is_there(place) + (["still a link"] if place.target.is_symlink() else [])


def a_dangling_link(c: Campaign, place: Place) -> list[str]:
    """In the output's place."""
    return _linked(c, place, place.out / "nowhere")


def a_link_to_another_folder(c: Campaign, place: Place) -> list[str]:
    """In the output's place."""
    other = place.home.parent / "precious.onnx"
    other.write_bytes(b"precious")
    try:
        return _linked(c, place, other)
    finally:
        other.unlink()


def a_link_to_the_source(c: Campaign, place: Place) -> list[str]:
    """In the place of the output, or of its data: refused."""
    wrong = []
    files = [path for path in sorted(place.home.rglob("*")) if path.suffix in (".onnx", ".data")]
    for file in files if not place.source.is_dir() else []:
        for name in (place.target, place.target.with_name(place.target.name + ".data")):
            shutil.rmtree(place.out)
            place.out.mkdir()
            name.symlink_to(file)
            run = c.judge.runner.run(place.arguments())
            wrong += _expect(run, 2, "would overwrite the source")
            wrong += [] if name.is_symlink() else ["the link was replaced"]
    if place.source.is_dir():
        shutil.rmtree(place.target)
        place.target.symlink_to(place.source)
        wrong += _expect(c.judge.runner.run(place.arguments()), 2, "overlap")
    return wrong


def an_output_folder_that_is_a_link(c: Campaign, place: Place) -> list[str]:
    """Files are written where it leads."""
    real = place.out.with_name("real")
    place.out.rename(real)
    place.out.symlink_to(real)
    try:
        return _expect(c.judge.runner.run(place.arguments()), 0) + _new_is_there(place)
    finally:
        place.out.unlink()
        shutil.rmtree(real)


def a_source_that_is_a_link(c: Campaign, place: Place) -> list[str]:
    """Both model and folder may be links."""
    if place.source.is_dir() or len(list(place.home.glob("m.onnx*"))) > 1:
        raise NotAllowedError("external data lie beside the model itself")
    link = place.home.parent / "m.onnx"
    link.symlink_to(place.source)
    try:
        arguments = [str(link) if a == str(place.source) else a for a in place.arguments()]
        return _expect(c.judge.runner.run(arguments), 0) + _new_is_there(place)
    finally:
        link.unlink()


def another_file_system(c: Campaign, place: Place) -> list[str]:
    """The output elsewhere than the source: bytes go through this process."""
    if not _SHM.is_dir() or _SHM.stat().st_dev == place.home.stat().st_dev:
        raise NotAllowedError("no second file system")
    elsewhere = _SHM / f"faults-{os.getpid()}"
    elsewhere.mkdir()
    try:
        more = ("-o", elsewhere / place.target.name)
        more += () if place.work is None else ("--work-dir", elsewhere / "w")
        wrong = _expect(c.judge.runner.run(place.arguments(*more)), 0)
        found = {name: data for name, data in contents(elsewhere).items() if not name.startswith("w/")}
        return wrong + ([] if found == place.wanted else [f"other bytes or files: {sorted(found)}"])
    finally:
        shutil.rmtree(elsewhere)


def a_report_that_fails_at_the_end(c: Campaign, place: Place) -> list[str]:
    """The result stays, and the message says so."""
    with ExitStack() as stack:
        folder = place.home.parent / "reports"
        folder.mkdir(exist_ok=True)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)

        def close(child: int, _began: float) -> None:
            while not place.target.with_name(f".{place.target.name}.partial").exists():
                time.sleep(0.001)
            os.kill(child, signal.SIGSTOP)
            folder.rmdir()
            os.kill(child, signal.SIGCONT)

        run = c.judge.runner.run(place.arguments("--report", folder / "r.json"), meanwhile=close)
    return _expect(run, 3, "The model is complete") + _new_is_there(place)


SCENARIOS: dict[str, Callable[[Campaign, Place], list[str]]] = {
    f.__name__.replace("_", " "): f
    for f in (
        two_runs_on_one_output,
        two_runs_on_one_work_directory,
        a_read_only_output_folder,
        a_read_only_work_folder,
        a_read_only_source,
        a_folder_without_the_right_to_write,
        an_immutable_old_output,
        a_dangling_link,
        a_link_to_another_folder,
        a_link_to_the_source,
        an_output_folder_that_is_a_link,
        a_source_that_is_a_link,
        another_file_system,
        a_report_that_fails_at_the_end,
    )
}
