"""Killed runs, full disks, closed folders: no half output, nothing left behind, the source untouched."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from onnxfq import pipeline
from onnxfq.quantization import announce_cost, solve_weights
from support.tiny import QUICK, contents, entries, mixed, operators, pair, quantize

Output = pytest.CaptureFixture[str]
posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return pair(tmp_path / "m.onnx")


KILLED = """
import os, signal, sys
from itertools import count
from pathlib import Path
from onnxfq import cli, pipeline
what, at = sys.argv.pop(1).split(":")
home = {"os": os, "Path": Path, "pipeline": pipeline}[what.split(".")[0]]
name, calls = what.split(".")[1], count(1)
real = getattr(home, name)
def dying(*args, **kwargs):
    if next(calls) == int(at):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
setattr(home, name, dying)
cli.main()
"""


@posix
@pytest.mark.parametrize("moment", ["os.write:1", "pipeline.verify:1", "Path.rename:3", "Path.rename:5"])
def test_a_killed_run_leaves_no_half_output_and_the_next_one_cleans_up(tmp_path: Path, moment: str) -> None:
    source = mixed(tmp_path / "m.onnx", external=True)
    assert quantize(source, "--bits", "8", "-o", tmp_path / "out.onnx", *QUICK) == 0
    before = contents(tmp_path)
    command = [sys.executable, "-c", KILLED, moment, "quantize", str(source), "-o", str(tmp_path / "out.onnx"), *QUICK]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -signal.SIGKILL
    after = {name: data for name, data in contents(tmp_path).items() if not name.startswith(".")}
    if "rename" in moment:  # while the old pair makes room for the new one
        assert "out.onnx" not in after
    else:
        assert after == before
    assert entries(tmp_path)[:2] == [".out.onnx.lock", ".out.onnx.partial"]
    assert quantize(source, "-o", tmp_path / "out.onnx", *QUICK) == 0
    assert sorted(contents(tmp_path)) == sorted(before)
    assert "MatMulNBits" in operators(tmp_path / "out.onnx")


# Disks that fill up, at every single write


@pytest.fixture(params=[False, True], ids=["inline", "external"])
def sources(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    return mixed(folder / "m.onnx", external=request.param)


@pytest.mark.parametrize("call", ["write", "copy_file_range", "fsync"])
def test_a_disk_that_is_full_at_any_moment(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output, call: str
) -> None:
    if not hasattr(os, call):
        pytest.skip(f"no os.{call} here")
    output = tmp_path / "out" / "out.onnx"
    output.parent.mkdir()
    assert quantize(sources, "--bits", "8", "-o", output, *QUICK) == 0
    source, old = contents(sources.parent), contents(output.parent)
    for at in count(1):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full_at(at, getattr(os, call)))
            code = quantize(sources, "-o", output, *QUICK)
        err = capsys.readouterr().err
        assert contents(sources.parent) == source
        if code == 0:
            break
        assert code == 3
        if "is complete, but may not outlast a power failure (No space left on device)" in err:
            break  # the folder is made durable when all is in place
        check_full(err)
        assert contents(output.parent) == old
    assert at > 1
    assert (code == 0) == (call != "fsync")
    assert sorted(contents(output.parent)) == sorted(old)
    assert contents(output.parent) != old


def full_at(at: int, real: Callable[..., object]) -> Callable[..., object]:
    """A system call that finds the disk full when it is called for the time number `at`."""
    calls = count(1)

    def call(*args: object, **kwargs: object) -> object:
        if next(calls) == at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **kwargs)

    return call


def check_full(err: str) -> None:
    assert "No space left on device" in err
    assert "Free some disk space" in err
    assert "Nothing was left behind" in err
    assert "Traceback" not in err


@pytest.mark.skipif(sys.platform != "linux", reason="needs tmpfs")
def test_a_disk_that_is_really_full(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("may not mount here")
    try:
        assert quantize(sources, "-o", disk / "out.onnx", *QUICK) == 3
        assert "kB are free in" in capsys.readouterr().err
        assert entries(disk) == []
        monkeypatch.setattr(announce_cost, "check_space", lambda *_: None)
        assert quantize(sources, "-o", disk / "out.onnx", *QUICK) == 3
        assert "No space left on device" in capsys.readouterr().err
        assert entries(disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_that_cannot_be_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    def refused(path: object, *_args: object, **_kwargs: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refused)
    assert quantize(model, *QUICK) == 3
    err = capsys.readouterr().err
    assert "Permission denied" in err
    assert "another place with -o" in err
    assert entries(tmp_path) == ["m.onnx"]


@posix
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="nothing is closed to root")
def test_a_read_only_folder(model: Path, tmp_path: Path, capsys: Output) -> None:
    tmp_path.chmod(0o500)
    try:
        assert quantize(model, *QUICK) == 3
        assert "Permission denied" in capsys.readouterr().err
        assert entries(tmp_path) == ["m.onnx"]
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize(("length", "code"), [(250, 3), (255, 2)])
def test_a_name_that_is_too_long(model: Path, capsys: Output, length: int, code: int) -> None:
    assert quantize(model, "-o", model.with_name("x" * length), *QUICK) == code
    assert "too long" in capsys.readouterr().err
    assert entries(model.parent) == ["m.onnx"]


@pytest.mark.parametrize("stage", ["solve", "verify"])
def test_a_source_that_changes_during_the_run_is_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output, stage: str
) -> None:
    home = solve_weights if stage == "solve" else pipeline
    real = getattr(home, stage)

    def meddling(*args: object) -> object:
        done = real(*args)
        os.utime(model, ns=(1, 1))
        return done

    monkeypatch.setattr(home, stage, meddling)
    assert quantize(model, *QUICK) == 3
    assert "was changed while it was being read" in capsys.readouterr().err
    assert entries(model.parent) == ["m.onnx"]


def test_two_runs_write_the_same_bytes_and_touch_nothing_else(sources: Path) -> None:
    source = contents(sources.parent)
    first, second = sources.parent / "a.onnx", sources.parent / "b.onnx"
    for output in (first, second):
        assert quantize(sources, "-o", output, *QUICK) == 0
    after = contents(sources.parent)
    assert {name: after[name] for name in source} == source
    if first.with_name("a.onnx.data").exists():
        assert after["a.onnx.data"] == after["b.onnx.data"]
        assert after["a.onnx"].replace(b"a.onnx.data", b"b.onnx.data") == after["b.onnx"]
    else:
        assert after["a.onnx"] == after["b.onnx"]
