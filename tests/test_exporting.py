"""Exports: what is refused, what errors become, and that nothing half-written is left."""

from __future__ import annotations

import json
import logging
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onnxfq import ModelError, OutputError, UsageError, cli
from onnxfq.exporting import export
from support.tiny import entries, pair

Output = pytest.CaptureFixture[str]


@pytest.fixture
def checkpoint_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def optimum(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., None]], None]:
    """Put a function in the place of optimum's exporter."""

    def install(main_export: Callable[..., None]) -> None:
        module = types.ModuleType("optimum.exporters.onnx")
        module.main_export = main_export  # type: ignore[attr-defined]
        for name in ("optimum", "optimum.exporters"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        monkeypatch.setitem(sys.modules, "optimum.exporters.onnx", module)

    return install


def writes(*names: str, task: str = "auto", dtype: str = "fp32") -> Callable[..., None]:
    """An exporter that writes files, and checks what it was asked for."""

    def main_export(*, model_name_or_path: str, output: Path, **asked: Any) -> None:
        assert asked == {"task": task, "dtype": dtype}
        output.mkdir()
        for name in names:
            pair(output / name) if name.endswith(".onnx") else (output / name).write_text("{}")
        logging.getLogger("optimum.exporters").warning("outputs differ by %g", 0.5)
        warnings.warn("the tracer is old", DeprecationWarning, stacklevel=1)

    return main_export


Install = Callable[[Callable[..., None]], None]


def test_a_folder_is_written_as_a_whole(checkpoint_folder: Path, tmp_path: Path, optimum: Install) -> None:
    optimum(writes("model.onnx", "config.json", task="x", dtype="fp16"))
    told: list[str] = []
    files = export(
        checkpoint_folder, tmp_path / "out", task="x", dtype="fp16", progress=lambda what, *_: told.append(what)
    )
    assert files == [tmp_path / "out" / "model.onnx"]
    assert entries(tmp_path / "out") == ["config.json", "model.onnx"]
    assert entries(tmp_path) == ["checkpoint", "out"]
    assert told == ["exporting", "outputs differ by 0.5"]


def test_an_earlier_export_is_replaced_and_nothing_else(
    checkpoint_folder: Path, tmp_path: Path, optimum: Install
) -> None:
    optimum(writes("model.onnx"))
    export(checkpoint_folder, tmp_path / "out")
    export(checkpoint_folder, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"notes\.txt"):
        export(checkpoint_folder, tmp_path / "out")
    assert entries(tmp_path / "out") == ["model.onnx", "notes.txt"]
    assert entries(tmp_path) == ["checkpoint", "out"]


def test_the_command_names_the_files(
    checkpoint_folder: Path, tmp_path: Path, optimum: Install, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    optimum(writes("model.onnx"))
    assert cli.run(["export", str(checkpoint_folder), str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'out' / 'model.onnx'}\n"
    assert "exporting" in err
    assert cli.run(["export", str(checkpoint_folder), str(tmp_path / "out"), "-q"]) == 0
    assert capsys.readouterr() == ("", "")


class OfflineModeIsEnabled(ConnectionError):  # noqa: N818
    """Named as the hub's own."""


class RepositoryNotFoundError(OSError):
    """Named as the hub's own."""


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OfflineModeIsEnabled("offline"), "hub cannot be reached to fetch it: offline Give a folder"),
        (RepositoryNotFoundError("404"), "There is no model 'a/model' on the Hugging Face hub"),
        (KeyError("mystery"), "optimum cannot export 'a/model': KeyError: 'mystery'"),
        (RuntimeError("no  such\nop"), "RuntimeError: no such op"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_errors_say_what_to_do_and_leave_nothing(
    tmp_path: Path, optimum: Install, error: Exception, told: str, wrapped: bool
) -> None:
    def main_export(*, output: Path, **_: Any) -> None:
        output.mkdir()
        (output / "half.onnx").write_text("half")
        if not wrapped:
            raise error
        try:
            raise error
        except Exception as cause:
            raise OSError(str(cause)) from cause

    optimum(main_export)
    with pytest.raises(ModelError) as caught:
        export("a/model", tmp_path / "out")
    assert (wrapped and told.startswith(("optimum", "RuntimeError"))) or told in str(caught.value)
    assert entries(tmp_path) == []


def test_an_export_without_a_model_is_an_error(checkpoint_folder: Path, tmp_path: Path, optimum: Install) -> None:
    optimum(writes("config.json"))
    with pytest.raises(ModelError, match="wrote no ONNX file"):
        export(checkpoint_folder, tmp_path / "out")
    assert entries(tmp_path) == ["checkpoint"]


def test_without_optimum_the_remedy_is_named(
    checkpoint_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setitem(sys.modules, "optimum.exporters.onnx", None)
    assert cli.run(["export", str(checkpoint_folder), str(tmp_path / "out")]) == 2
    assert "pip install 'onnxfq[export]'" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere", "a/b/c", "../x"])
def test_paths_that_lead_nowhere_are_no_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="There is no folder"):
        export(name, tmp_path / "out")


def test_other_wrong_usage(tmp_path: Path, checkpoint_folder: Path) -> None:
    with pytest.raises(UsageError, match="is a file"):
        export(checkpoint_folder / "config.json", tmp_path / "out")
    with pytest.raises(UsageError, match="Use fp32 or fp16"):
        export(checkpoint_folder, tmp_path / "out", dtype="bf16")
    with pytest.raises(UsageError, match="is a file"):
        export(checkpoint_folder, checkpoint_folder / "config.json")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_real_export(checkpoint: Path, tmp_path: Path, dtype: str) -> None:
    pytest.importorskip("optimum.exporters.onnx", reason="pip install 'onnxfq[export]'")
    (file,) = export(checkpoint, tmp_path / "out", task="text-generation-with-past", dtype=dtype)
    assert file.name == "model.onnx"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "llama"
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    assert entries(tmp_path) == ["out"]


@pytest.mark.slow
def test_a_name_cannot_be_fetched_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub.constants", reason="pip install 'onnxfq[export]'")
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="cannot be reached"):
        export("nobody/no-such-model", tmp_path / "out", task="text-generation")
    assert entries(tmp_path) == []
