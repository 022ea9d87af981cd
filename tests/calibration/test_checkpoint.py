"""Finished stages on disk: whole or not at all, and of one run only."""

from __future__ import annotations

import errno
import json
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from onnxfq.calibration.checkpoint import Checkpoint, checkpoint, discard
from onnxfq.errors import OutputError, UsageError
from support.models import Array
from support.tiny import contents, entries

IDENTITY = {"model": "ab" * 32, "scheme": "int4, block 32"}
ARRAYS: dict[str, Array] = {
    "3/0.b": np.arange(60, dtype=np.uint8).reshape(3, 4, 5),
    "3/0.scales": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "half": np.arange(5).astype(np.float16),
    "brain": np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3),
    "shift": np.array([np.nan, np.inf, -0.0]),
    "flags": np.array([True, False]),
    "scalar": np.array(7, np.int64),
    "empty": np.zeros((0, 4), np.float32),
}
FACTS = {"3": {"digest": "cafe", "error": 0.1 + 0.2, "least": -1e-300, "remarks": ["é"], "activations": None}}
MANIFEST = "onnxfq-work.json"


def stored(folder: Path, *stages: int, identity: Mapping[str, Any] = IDENTITY) -> None:
    with checkpoint(folder, identity, resume=True) as work:
        for stage in stages:
            work.save(stage, ARRAYS, FACTS)


def loaded(folder: Path, stage: int) -> tuple[dict[str, Array], dict[str, Any]] | None:
    with checkpoint(folder, IDENTITY, resume=True) as work:
        return work.load(stage)


def test_a_stage_comes_back_as_it_was(tmp_path: Path) -> None:
    stored(tmp_path / "w", 3)
    found = loaded(tmp_path / "w", 3)
    assert found is not None
    arrays, facts = found
    assert facts == FACTS
    assert set(arrays) == set(ARRAYS)
    for name, wanted in ARRAYS.items():
        assert arrays[name].dtype == wanted.dtype
        assert arrays[name].shape == wanted.shape
        assert arrays[name].tobytes() == wanted.tobytes()


def test_a_stage_without_arrays_comes_back(tmp_path: Path) -> None:
    with checkpoint(tmp_path / "w", IDENTITY, resume=False) as work:
        work.save(0, {}, {})
        assert work.load(0) == ({}, {})
        assert work.load(1) is None


def test_what_is_resumed_is_counted(tmp_path: Path) -> None:
    stored(tmp_path / "w", 0, 1)
    with checkpoint(tmp_path / "w", IDENTITY, resume=True) as work:
        assert (work.finished, work.thrown_away) == (2, 0)
    with checkpoint(tmp_path / "w", IDENTITY, resume=False) as work:
        assert (work.finished, work.thrown_away) == (0, 2)
        assert work.load(0) is None


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("kind", ["missing", "deep", "empty"])
def test_a_missing_or_empty_folder_is_a_fresh_start(tmp_path: Path, kind: str, resume: bool) -> None:
    folder = tmp_path / {"missing": "w", "deep": "a/b/w", "empty": "e"}[kind]
    if kind == "empty":
        folder.mkdir()
    with checkpoint(folder, IDENTITY, resume=resume) as work:
        assert (work.finished, work.thrown_away) == (0, 0)
        work.save(0, ARRAYS, FACTS)
    assert entries(folder) == [MANIFEST, "stage-00000.npz"]


def test_nothing_is_left_where_no_stage_was_finished(tmp_path: Path) -> None:
    with checkpoint(tmp_path / "a" / "b" / "w", IDENTITY, resume=False):
        assert entries(tmp_path / "a" / "b" / "w") == ["onnxfq-work.json", "onnxfq-work.lock"]
    assert entries(tmp_path) == []
    (tmp_path / "mine").mkdir()
    with checkpoint(tmp_path / "mine", IDENTITY, resume=False):
        pass
    assert entries(tmp_path) == ["mine"]
    assert entries(tmp_path / "mine") == []


def test_left_overs_of_a_killed_run_go(tmp_path: Path) -> None:
    folder = tmp_path / "w"
    stored(folder, 0)
    for name in ("stage-00001.part", "onnxfq-work.part", "kept-0ab_9xyz", "kept-12345678", "onnxfq-work.lock"):
        (folder / name).write_bytes(b"half")
    with checkpoint(folder, IDENTITY, resume=True) as work:
        assert entries(folder) == [MANIFEST, "onnxfq-work.lock", "stage-00000.npz"]
        assert work.load(0) is not None
        assert work.load(1) is None


def test_a_run_killed_before_the_manifest_was_there_can_be_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "w"
    folder.mkdir()
    (folder / "onnxfq-work.part").write_bytes(b"{")
    with checkpoint(folder, IDENTITY, resume=True) as work:
        assert work.finished == 0
        assert MANIFEST in entries(folder)


# Damage


def test_a_stage_cut_short_anywhere_counts_as_unfinished(tmp_path: Path) -> None:
    stored(tmp_path / "w", 0)
    file = tmp_path / "w" / "stage-00000.npz"
    whole = file.read_bytes()
    with checkpoint(tmp_path / "w", IDENTITY, resume=True) as work:
        for length in (0, 1, 31, 32, 33, *range(40, len(whole), 97), len(whole) - 1):
            file.write_bytes(whole[:length])
            assert work.load(0) is None, length
        file.write_bytes(whole)
        assert work.load(0) is not None


def test_a_stage_with_a_wrong_byte_anywhere_counts_as_unfinished(tmp_path: Path) -> None:
    stored(tmp_path / "w", 0)
    file = tmp_path / "w" / "stage-00000.npz"
    whole = file.read_bytes()
    with checkpoint(tmp_path / "w", IDENTITY, resume=True) as work:
        for at in range(0, len(whole), 13):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
            assert work.load(0) is None, at
        file.write_bytes(whole + b"more")
        assert work.load(0) is None


def test_a_stage_that_is_a_folder_counts_as_unfinished(tmp_path: Path) -> None:
    with checkpoint(tmp_path / "w", IDENTITY, resume=True) as work:
        (tmp_path / "w" / "stage-00000.npz").mkdir()
        assert work.load(0) is None
        with pytest.raises(OutputError, match=r"stage-00000.npz.*`work_dir`"):
            work.save(0, ARRAYS, FACTS)


def test_nothing_in_a_stage_is_unpickled(tmp_path: Path) -> None:
    stored(tmp_path / "w", 0)
    file = tmp_path / "w" / "stage-00000.npz"
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            assert archive.read(name)[:6] == b"\x93NUMPY"
    with checkpoint(tmp_path / "w", IDENTITY, resume=True) as work:
        with pytest.raises(ValueError, match="allow_pickle"):
            work.save(1, {"evil": np.array([{}], object)}, {})
        file.write_bytes(pickle.dumps(ARRAYS))
        assert work.load(0) is None


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_a_damaged_manifest_is_told_as_such(tmp_path: Path, damage: bytes) -> None:
    folder = tmp_path / "w"
    stored(folder, 0)
    (folder / MANIFEST).write_bytes(damage)
    before = contents(folder)
    with (
        pytest.raises(UsageError, match=r"is damaged: 'onnxfq-work.json'.*Leave `resume` out"),
        checkpoint(folder, IDENTITY, resume=True),
    ):
        pass
    assert contents(folder) == before
    with checkpoint(folder, IDENTITY, resume=False) as work:
        assert work.thrown_away == 1


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_is_full_leaves_the_stage_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with checkpoint(tmp_path / "w", IDENTITY, resume=True) as work:
        work.save(0, ARRAYS, FACTS)
        with monkeypatch.context() as patch:
            patch.setattr(*((os, "fsync", full) if call == "fsync" else (Path, "replace", full)))
            with pytest.raises(OutputError, match=r"stage-00001.npz.*No space left.*`work_dir`"):
                work.save(1, ARRAYS, FACTS)
        assert work.load(1) is None
        assert work.load(0) is not None


# Folders of others


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    "name", ["notes.txt", "stage-1.txt", "stage-00001.npz", "stage-00001.npz.bak", "thesis.part", "kept-alive", ".git"]
)
def test_a_folder_with_other_files_is_refused(tmp_path: Path, name: str, resume: bool) -> None:
    (tmp_path / name).write_text("mine")
    with (
        pytest.raises(UsageError, match=rf"holds other files \(such as '{name}'\).*`work_dir`"),
        checkpoint(tmp_path, IDENTITY, resume=resume),
    ):
        pass
    assert contents(tmp_path) == {name: b"mine"}


def test_a_work_directory_in_which_somebody_put_a_file_is_refused(tmp_path: Path) -> None:
    stored(tmp_path / "w", 0)
    (tmp_path / "w" / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(UsageError, match=r"notes.txt"), checkpoint(tmp_path / "w", IDENTITY, resume=False):
        pass
    assert contents(tmp_path) == before


def test_a_file_is_no_work_directory(tmp_path: Path) -> None:
    (tmp_path / "w").write_text("mine")
    with pytest.raises(UsageError, match="is a file"), checkpoint(tmp_path / "w", IDENTITY, resume=False):
        pass
    with pytest.raises(OutputError, match="Not a directory"), checkpoint(tmp_path / "w" / "x", IDENTITY, resume=False):
        pass
    assert contents(tmp_path) == {"w": b"mine"}


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"model": "cd" * 32}, r"model: got cdcdcdcd…, wanted abababab…"),
        ({"scheme": "int8"}, r"scheme: got int8, wanted int4, block 32"),
        ({"more": 1}, r"more: got 1, wanted None"),
    ],
)
def test_the_work_of_another_run_is_refused(tmp_path: Path, other: dict[str, Any], told: str) -> None:
    stored(tmp_path / "w", 0)
    before = contents(tmp_path)
    with (
        pytest.raises(UsageError, match=rf"belongs to another run \({told}\)"),
        checkpoint(tmp_path / "w", {**IDENTITY, **other}, resume=True),
    ):
        pass
    assert contents(tmp_path) == before


def test_the_work_of_another_version_is_refused(tmp_path: Path) -> None:
    stored(tmp_path / "w", 0)
    manifest = tmp_path / "w" / MANIFEST
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 0}))
    with pytest.raises(UsageError, match="format: got 4, wanted 0"), checkpoint(tmp_path / "w", IDENTITY, resume=True):
        pass


def test_one_work_directory_serves_one_run_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with checkpoint(tmp_path / "w", IDENTITY, resume=False) as work:
        work.save(0, ARRAYS, FACTS)
        before = contents(tmp_path)
        for resume in (False, True):
            with (
                pytest.raises(OutputError, match=r"Another run is using the work directory .*`work_dir`"),
                checkpoint(tmp_path / "w", IDENTITY, resume=resume),
            ):
                pass
        assert contents(tmp_path) == before
    assert loaded(tmp_path / "w", 0) is not None


def test_the_folder_is_free_again_after_a_failure(tmp_path: Path) -> None:
    def failing(work: Checkpoint) -> None:
        work.save(0, ARRAYS, FACTS)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), checkpoint(tmp_path / "w", IDENTITY, resume=False) as work:
        failing(work)
    assert entries(tmp_path / "w") == [MANIFEST, "stage-00000.npz"]
    assert loaded(tmp_path / "w", 0) is not None


def test_discarding_removes_what_is_ours(tmp_path: Path) -> None:
    discard(tmp_path / "nowhere")
    stored(tmp_path / "w", 0, 1)
    discard(tmp_path / "w")
    assert entries(tmp_path) == []
    stored(tmp_path / "w", 0)
    (tmp_path / "w" / "notes.txt").write_text("mine")
    discard(tmp_path / "w")
    assert entries(tmp_path / "w") == ["notes.txt"]
