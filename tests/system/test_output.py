"""The output is there whole or not at all, whatever happens on the way."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from onnxfq.errors import OutputError, UsageError
from onnxfq.quantization import announce_cost
from onnxfq.system.output import (
    check_place,
    check_space,
    commit_files,
    commit_folder,
    refuse_losing,
    refuse_overwriting,
    staging,
)
from support.tiny import QUICK, contents, entries, pair, quantize

Output = pytest.CaptureFixture[str]

posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return pair(tmp_path / "m.onnx")


def stage(folder: Path, output: Path, text: str, *, data: bool) -> Path:
    """A finished model in the staging folder, with or without a data file."""
    staged = folder / output.name
    staged.write_text(text)
    if data:
        staged.with_name(staged.name + ".data").write_text(f"data of {text}")
    return staged


# Staging and locking


def test_the_staging_folder_is_fresh_and_vanishes(tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    leftover = tmp_path / ".out.onnx.partial"
    leftover.mkdir()
    (leftover / "rubbish").touch()
    with staging(output) as folder:
        assert folder == leftover
        assert entries(folder) == []
        (folder / "new").touch()
    assert entries(tmp_path) == []


@pytest.mark.parametrize("leftover", ["file", "link"])
def test_whatever_stands_in_the_staging_folders_place_is_removed_but_not_followed(
    tmp_path: Path, leftover: str
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    place = tmp_path / ".out.onnx.partial"
    place.touch() if leftover == "file" else place.symlink_to(kept)
    with staging(tmp_path / "out.onnx"):
        pass
    assert entries(tmp_path) == ["kept"]
    assert entries(kept) == ["file"]


@posix
def test_a_second_run_on_the_same_output_is_refused_and_the_first_goes_on(model: Path, capsys: Output) -> None:
    output = model.with_name("out.onnx")
    with staging(output) as folder:
        staged = stage(folder, output, "first", data=False)
        assert quantize(model, "-o", output, *QUICK) == 3
        assert "Another run is writing" in capsys.readouterr().err
        assert staged.exists()
        assert quantize(model, "-o", model.with_name("other.onnx"), *QUICK) == 0
        commit_files(staged, output)
    assert output.read_text() == "first"
    assert entries(model.parent) == ["m.onnx", "other.onnx", "out.onnx"]
    assert quantize(model, "-o", output, *QUICK) == 0


@posix
def test_a_lock_file_that_nobody_holds_does_not_matter(model: Path) -> None:
    model.with_name(".m.int4.onnx.lock").touch()
    assert quantize(model, *QUICK) == 0
    assert entries(model.parent) == ["m.int4.onnx", "m.onnx"]


@posix
def test_a_lock_file_that_vanishes_while_it_is_being_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    real, calls = fcntl.flock, count(1)

    def flock(descriptor: int, operation: int) -> None:
        if next(calls) == 1:
            (tmp_path / ".out.onnx.lock").unlink()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with staging(tmp_path / "out.onnx"):
        assert next(calls) == 3
        assert (tmp_path / ".out.onnx.lock").exists()
    assert entries(tmp_path) == []


@posix
def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(OutputError, match="No locks available"), staging(tmp_path / "out.onnx"):
        pass


def test_systems_without_flock_do_without(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxfq.system.durable.fcntl", None)
    assert quantize(model, *QUICK) == 0
    assert entries(model.parent) == ["m.int4.onnx", "m.onnx"]


def test_errors_name_staged_files_as_they_would_have_been_called(tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    with pytest.raises(OutputError) as error, staging(output) as folder:
        raise OutputError(f"'{folder / 'out.onnx'}' is odd.")
    assert str(error.value) == f"'{output}' is odd."


def test_a_foreign_file_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"vocab\.txt"), staging(tmp_path / "out.onnx"):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "source" / "vocab.txt"))


# Places that are refused


def test_a_missing_parent_folder(model: Path, capsys: Output) -> None:
    assert quantize(model, "-o", model.parent / "nowhere" / "out.onnx", *QUICK) == 3
    assert "does not exist. Create it first." in capsys.readouterr().err
    assert entries(model.parent) == ["m.onnx"]


def test_a_folder_for_a_file(model: Path, capsys: Output) -> None:
    folder = model.parent / "folder"
    folder.mkdir()
    (folder / f"{model.stem}.int4.onnx").mkdir()  # in the very place of the result
    assert quantize(model, "-o", folder, *QUICK) == 2
    assert str(folder / f"{model.stem}.int4.onnx" / "model.int4.onnx") in capsys.readouterr().err
    assert entries(folder) == [f"{model.stem}.int4.onnx"]


@posix
@pytest.mark.parametrize("name", ["pipe", "out.onnx"])
def test_a_device_or_the_like_is_not_replaced(model: Path, capsys: Output, name: str) -> None:
    os.mkfifo(model.parent / "pipe")
    os.mkfifo(model.parent / "out.onnx.data")
    assert quantize(model, "-o", model.parent / name, *QUICK) == 2
    assert "not a regular file" in capsys.readouterr().err
    assert entries(model.parent) == ["m.onnx", "out.onnx.data", "pipe"]


def same(source: Path, how: str) -> Path:
    """Another name of the source."""
    other = source.with_name("other.onnx")
    match how:
        case "the same path":
            return source
        case "a relative path":
            return Path(os.path.relpath(source))
        case "a detour":
            return source.parent / "folder" / ".." / source.name
        case "a symbolic link":
            other.symlink_to(source)
        case "a hard link":
            os.link(source, other)
    return other


@pytest.mark.parametrize("how", ["the same path", "a relative path", "a detour", "a symbolic link", "a hard link"])
def test_the_source_under_any_name_is_refused(model: Path, capsys: Output, how: str) -> None:
    (model.parent / "folder").mkdir()
    before = contents(model.parent)
    assert quantize(model, "-o", same(model, how), *QUICK) == 2
    assert "would overwrite the source" in capsys.readouterr().err
    assert {k: v for k, v in contents(model.parent).items() if k != "other.onnx"} == before


def test_the_sources_data_file_is_refused_as_model_and_as_data(tmp_path: Path) -> None:
    source = pair(tmp_path / "m.onnx", external=True)
    data = tmp_path / "m.0.bin"
    before = contents(tmp_path)
    assert quantize(source, "-o", data, *QUICK) == 2
    linked = tmp_path / "out.onnx.data"
    linked.symlink_to(data)
    assert quantize(source, "-o", tmp_path / "out.onnx", *QUICK) == 2
    linked.unlink()
    assert contents(tmp_path) == before


@pytest.mark.parametrize("source", [".out.onnx.lock", ".out.onnx.partial/m.onnx"])
def test_a_source_where_the_run_keeps_its_own_files_is_refused(tmp_path: Path, source: str) -> None:
    path = pair(tmp_path / source)
    assert quantize(path, "-o", tmp_path / "out.onnx", *QUICK) == 2
    assert path.exists()


def test_a_full_disk_is_noticed_before_any_work(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    check_space(model.parent, 1)
    with pytest.raises(OutputError, match="Free some space"):
        check_space(model.parent, 10**18)
    monkeypatch.setattr(announce_cost, "predicted_bytes", lambda _: 10**18)
    assert quantize(model, *QUICK) == 3
    assert "are free in" in capsys.readouterr().err
    assert entries(model.parent) == ["m.onnx"]


def test_other_outputs_pass(tmp_path: Path) -> None:
    refuse_overwriting(tmp_path / "out.onnx", [tmp_path / "m.onnx", tmp_path / "out.data"])
    check_place(tmp_path / "out.onnx", folder=False)
    check_place(tmp_path, folder=True)
    with pytest.raises(UsageError):
        check_place(tmp_path, folder=False)


# Moving into place


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("old", [True, False])
def test_a_model_replaces_another_and_its_data_never_stay(tmp_path: Path, old: bool, new: bool) -> None:
    output = tmp_path / "out.onnx"
    for text, data in (("old", old), ("new", new)):
        with staging(output) as folder:
            commit_files(stage(folder, output, text, data=data), output)
        assert output.read_text() == text
        assert entries(tmp_path) == ["out.onnx", *(["out.onnx.data"] if data else [])]
    assert not new or output.with_name("out.onnx.data").read_text() == "data of new"


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Call a function before and after every move."""

    def watch(look: Callable[[], None]) -> None:
        def looking(method: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
            def move(path: Path, place: Path) -> Path:
                look()
                moved = method(path, place)
                look()
                return moved

            return move

        monkeypatch.setattr(Path, "rename", looking(Path.rename))
        monkeypatch.setattr(Path, "replace", looking(Path.replace))

    return watch


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("old", [True, False])
def test_at_no_moment_does_a_model_stand_beside_anothers_data(
    tmp_path: Path, watched: Callable[[Callable[[], None]], None], old: bool, new: bool
) -> None:
    output, data = tmp_path / "out.onnx", tmp_path / "out.onnx.data"
    seen = []

    def look() -> None:
        pair = tuple(p.read_text() if p.exists() else None for p in (output, data))
        seen.append(pair)
        assert pair[0] is None or pair[1] == (f"data of {pair[0]}" if {"old": old, "new": new}[pair[0]] else None)

    with staging(output) as folder:
        commit_files(stage(folder, output, "old", data=old), output)
    watched(look)
    with staging(output) as folder:
        commit_files(stage(folder, output, "new", data=new), output)
    assert seen[0][0] == "old"
    assert seen[-1][0] == "new"
    assert old or new or None not in [text for text, _ in seen]


def failing(monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException) -> None:
    """Let the move number `at` fail."""
    calls = count(1)

    def breaking(method: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
        def move(path: Path, place: Path) -> Path:
            if next(calls) == at:
                raise error
            return method(path, place)

        return move

    monkeypatch.setattr(Path, "rename", breaking(Path.rename))
    monkeypatch.setattr(Path, "replace", breaking(Path.replace))


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()], ids=["error", "^C"])
@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_failure_between_two_moves_brings_the_old_pair_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException
) -> None:
    output = tmp_path / "out.onnx"
    with staging(output) as folder:
        commit_files(stage(folder, output, "old", data=True), output)
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        failing(patch, at, error)
        with pytest.raises((OutputError, KeyboardInterrupt)), staging(output) as folder:
            commit_files(stage(folder, output, "new", data=True), output)
    assert contents(tmp_path) == before


def test_what_a_killed_run_was_just_replacing_comes_back(tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    retired = tmp_path / ".out.onnx.partial" / "out.onnx.replaced"
    retired.mkdir(parents=True)
    (retired / "out.onnx").write_text("old")
    (retired / "out.onnx.data").write_text("data of old")
    (tmp_path / "out.onnx.data").write_text("data of new")
    with pytest.raises(OutputError), staging(output):
        raise OutputError("The next run fails.")
    assert contents(tmp_path) == {"out.onnx": b"old", "out.onnx.data": b"data of old"}


def make_folder(folder: Path, output: Path, **files: str) -> Path:
    staged = folder / output.name
    (staged / "sub").mkdir(parents=True)
    for name, text in files.items():
        (staged / name).write_text(text)
    return staged


@pytest.mark.parametrize("at", [1, 2])
def test_a_folder_is_replaced_as_a_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    output = tmp_path / "out"
    with staging(output) as folder:
        commit_folder(make_folder(folder, output, a="old"), output, [])
    with monkeypatch.context() as patch:
        failing(patch, at, OSError(errno.EIO, "Input/output error"))
        with pytest.raises(OutputError), staging(output) as folder:
            commit_folder(make_folder(folder, output, a="new", b="new"), output, [Path("a"), Path("sub")])
    assert contents(tmp_path) == {"out/a": b"old"}
    with staging(output) as folder:
        commit_folder(make_folder(folder, output, a="new", b="new"), output, [Path("a"), Path("sub")])
    assert contents(tmp_path) == {"out/a": b"new", "out/b": b"new"}
    assert entries(tmp_path) == ["out"]


def test_a_folder_with_other_things_in_it_is_not_replaced(tmp_path: Path) -> None:
    output = tmp_path / "out"
    refuse_losing(output, [])
    output.mkdir()
    refuse_losing(output, [])
    (output / "thesis.txt").touch()
    with pytest.raises(OutputError, match=r"1 entries .*thesis\.txt"), staging(output) as folder:
        commit_folder(make_folder(folder, output, a="new"), output, [Path("a")])
    assert contents(tmp_path) == {"out/thesis.txt": b""}
    with pytest.raises(OutputError, match="by a folder"):
        refuse_losing(output / "thesis.txt", [])
