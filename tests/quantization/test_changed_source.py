"""Sources that change while a run reads them: refused, whatever time stamps say, and no stage of theirs is kept."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from onnxfq import pipeline
from onnxfq.calibration.streams import Streams
from onnxfq.errors import ModelError
from onnxfq.graph import Graph
from onnxfq.graph import model as graph_model
from onnxfq.graph.external_data import FileSlice, copy_bytes
from onnxfq.quantization import solve_weights
from support.resuming import Place, stages
from support.tiny import QUICK, entries, pair, quantize

Output = pytest.CaptureFixture[str]
linux = pytest.mark.skipif(os.name == "nt", reason="Windows keeps no time of change")


def overwrite_secretly(path: Path) -> None:
    """Other bytes, the same size and modification time."""
    status, data = path.stat(), bytearray(path.read_bytes())
    data[-40:-8] = bytes(32)
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@linux
@pytest.mark.parametrize("how", ["overwritten", "replaced"])
def test_a_change_behind_the_same_time_stamp_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output, how: str
) -> None:
    model = pair(tmp_path / "m.onnx")
    real = vars(solve_weights)["solve"]

    def meddling(*args: object) -> object:
        if how == "replaced":
            other = tmp_path / "other"
            other.write_bytes(model.read_bytes())
            os.utime(other, ns=(model.stat().st_atime_ns, model.stat().st_mtime_ns))
            other.replace(model)
        else:
            overwrite_secretly(model)
        return real(*args)

    monkeypatch.setattr(solve_weights, "solve", meddling)
    assert quantize(model, *QUICK) == 3
    assert "was changed while it was being read" in capsys.readouterr().err
    assert entries(tmp_path) == ["m.onnx"]


def test_a_change_just_after_the_model_was_parsed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    model = pair(tmp_path / "m.onnx")
    real = vars(graph_model)["garbled"]

    def meddling(proto: object) -> object:
        os.utime(model, ns=(1, 1))
        return real(proto)

    monkeypatch.setattr(graph_model, "garbled", meddling)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "verify", lambda *_: 1)  # reads the written file
        assert quantize(model, *QUICK) == 3
    assert "was changed while it was being read" in capsys.readouterr().err
    assert entries(tmp_path) == ["m.onnx"]


def test_no_stage_of_a_changed_source_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    place, real = Place(tmp_path), Streams.advance
    assert place.run() == 0
    wanted = place.written()
    place.output.unlink()
    file = Graph.load(place.source).files[1]
    status, original = file.stat(), file.read_bytes()

    def meddling(self: Streams, index: int, *args: object) -> object:
        if index == 2:
            file.write_bytes(bytes(len(original)))
        return real(self, index, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Streams, "advance", meddling)
        assert place.run() == 3
    assert "was changed while it was being read" in capsys.readouterr().err
    assert len(stages(place.work)) == 2
    file.write_bytes(original)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert place.run("--resume") == 0
    assert place.written() == wanted


def test_a_source_that_cannot_be_read_any_more_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph.load(pair(tmp_path / "m.onnx"))

    def refused(path: Path, *_args: object, **_kwargs: object) -> object:
        raise OSError(errno.EIO, "Input/output error", str(path))

    for method, what in (("open", graph.source_hash), ("stat", graph.check_unchanged)):
        with monkeypatch.context() as patch:
            patch.setattr(Path, method, refused)
            with pytest.raises(ModelError, match=r"Cannot read '.*m\.onnx' \(Input/output"):
                what()


@pytest.mark.skipif(not hasattr(os, "copy_file_range"), reason="no os.copy_file_range here")
def test_a_kernel_that_copies_nothing_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    monkeypatch.setattr(os, "copy_file_range", lambda *_args, **_kwargs: 0)
    with (tmp_path / "b").open("wb") as target:
        copy_bytes(FileSlice(tmp_path / "a", 2, 6), target.fileno())
    assert (tmp_path / "b").read_bytes() == b"234567"
