"""What killed runs and failing clean-ups leave: the old output comes back, and no half of another beside it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from onnxfq.errors import ModelError, OutputError
from onnxfq.system.output import commit_files, commit_folder, staging
from support.tiny import QUICK, contents, entries, pair, quantize

Output = pytest.CaptureFixture[str]
OLD, NEW = {"out.onnx": b"old", "out.onnx.data": b"data of old"}, {"out.onnx": b"new", "out.onnx.data": b"data of new"}


class Killed(BaseException):
    """Stands for SIGKILL: nothing runs afterwards."""


def write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def without_data(files: dict[str, bytes]) -> dict[str, bytes]:
    return {"out.onnx": files["out.onnx"]}


def stop_moves(patch: pytest.MonkeyPatch, at: int, error: type[BaseException], *, ever_after: bool = False) -> None:
    """Let the move number `at` fail, or all from there on."""
    calls, real = count(1), {name: getattr(os, name) for name in ("rename", "replace")}

    def failing(name: str) -> object:
        def move(source: object, target: object) -> None:
            number = next(calls)
            if number == at or (ever_after and number > at):
                raise error(errno.EIO, "Input/output error", str(source))
            real[name](source, target)

        return move

    for name in real:
        patch.setattr(os, name, failing(name))


def replace_until_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: dict[str, bytes], at: int) -> bool:
    """Replace what is in a folder by a new pair; False where the move number `at` does not take place."""
    output = tmp_path / "out.onnx"
    with monkeypatch.context() as patch:
        stop_moves(patch, at, Killed)
        patch.setattr("onnxfq.system.output._remove", lambda _: None)  # the dead clean nothing up
        patch.setattr("onnxfq.system.output._waiting", lambda *_: [])
        folder = tmp_path / ".out.onnx.partial"
        write(folder, new)
        try:
            commit_files(folder / "out.onnx", output)
        except Killed:
            return True
    return False


def replace_files(output: Path) -> None:
    with staging(output) as folder:
        write(folder, NEW)
        commit_files(folder / output.name, output)


def replace_folder(output: Path) -> None:
    with staging(output) as folder:
        write(folder / output.name, {"a": b"new"})
        commit_folder(folder / output.name, output, [Path("a")])


@pytest.fixture(params=["pair by pair", "pair by model", "model by pair", "nothing by pair"])
def change(request: pytest.FixtureRequest) -> tuple[dict[str, bytes], dict[str, bytes]]:
    return {
        "pair by pair": (OLD, NEW),
        "pair by model": (OLD, without_data(NEW)),
        "model by pair": (without_data(OLD), NEW),
        "nothing by pair": ({}, NEW),
    }[request.param]


def test_after_a_kill_at_any_move_the_next_run_finds_the_old_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[dict[str, bytes], dict[str, bytes]]
) -> None:
    old, new = change
    for at in count(1):
        folder = tmp_path / str(at)
        write(folder, old)
        killed = replace_until_killed(folder, monkeypatch, new, at)
        with pytest.raises(ModelError), staging(folder / "out.onnx"):
            raise ModelError("The next run fails.")
        assert contents(folder) == (old if killed else new)
        if not killed:
            break
    assert at == len(old) + len(new) + 2  # one more move notes that the whole old pair is out


def test_a_kill_while_an_old_pair_comes_back_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in (1, 2, 3):
        folder = tmp_path / str(at)
        write(folder / ".out.onnx.partial" / "out.onnx.replaced", OLD)
        write(folder, {"out.onnx.data": NEW["out.onnx.data"]})
        with monkeypatch.context() as patch:
            stop_moves(patch, at, Killed)
            with pytest.raises(Killed), staging(folder / "out.onnx"):
                pass
        with staging(folder / "out.onnx"):
            assert {name: data for name, data in contents(folder).items() if not name.startswith(".")} == OLD


def test_a_folders_recovery_leaves_its_neighbours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "out", {"a": b"old"})
    write(tmp_path, {"out.data": b"mine"})
    with monkeypatch.context() as patch:
        stop_moves(patch, 2, Killed, ever_after=True)
        with pytest.raises(Killed):
            replace_folder(tmp_path / "out")
    with staging(tmp_path / "out"):
        assert (tmp_path / "out" / "a").read_bytes() == b"old"
    assert contents(tmp_path) == {"out/a": b"old", "out.data": b"mine"}


def test_a_disk_on_which_nothing_moves_any_more_keeps_the_old_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, OLD)
    output = tmp_path / "out.onnx"
    with monkeypatch.context() as patch:
        stop_moves(patch, 3, OSError, ever_after=True)
        with pytest.raises(OutputError) as raised:
            replace_files(output)
    assert f"The old output is in '{tmp_path / '.out.onnx.partial'}'; the next run brings it back." in str(raised.value)
    assert not output.exists()
    with staging(output):
        pass
    assert contents(tmp_path) == OLD


@pytest.fixture
def unremovable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refused(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refused)
        yield


@pytest.mark.usefixtures("unremovable")
def test_a_clean_up_that_fails_in_the_end_does_not_deny_the_result(tmp_path: Path, capsys: Output) -> None:
    model = pair(tmp_path / "m.onnx")
    assert quantize(model, *QUICK) == 3
    err = capsys.readouterr().err
    assert f"'{tmp_path / 'm.int4.onnx'}' is complete, but cleaning up failed" in err
    assert f"'{tmp_path / '.m.int4.onnx.partial'}' could not be removed" in err
    assert entries(tmp_path) == [".m.int4.onnx.partial", "m.int4.onnx", "m.onnx"]


@pytest.mark.usefixtures("unremovable")
def test_a_clean_up_that_fails_hides_no_other_error(tmp_path: Path, capsys: Output) -> None:
    model, calib = pair(tmp_path / "m.onnx"), tmp_path / "x.npz"
    calib.write_bytes(b"no arrays")
    assert quantize(model, "--calib", calib) == 3
    err = capsys.readouterr().err
    assert "x.npz cannot be read as arrays" in err
    assert "Cleaning up failed as well" in err


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX")
def test_a_lock_file_that_vanishes_while_it_is_looked_at_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    real, calls = fcntl.flock, count(1)

    def flock(descriptor: int, operation: int) -> None:
        real(descriptor, operation)
        if next(calls) == 1:  # the run that had it ends just now
            (tmp_path / ".out.onnx.lock").unlink()

    monkeypatch.setattr(fcntl, "flock", flock)
    with staging(tmp_path / "out.onnx"):
        assert next(calls) == 3
    assert entries(tmp_path) == []
