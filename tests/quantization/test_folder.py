"""A folder as source, such as an optimum export."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import onnxfq
from onnxfq import pipeline
from onnxfq.model_files import models_of
from onnxfq.quantization import solve_weights
from onnxfq.quantization.folder import copy_companions, refuse_overlap
from support.models import model as parse
from support.models import write
from support.tiny import QUICK, contents, entries, inspect, mixed, operators, pair, quantize, weight

Output = pytest.CaptureFixture[str]
COMPANIONS = ["config.json", "special tokens.json", "tokenizer.json", "vocab.txt"]


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """Two models, one with a data file, configuration, tokenizer, and weights in other formats."""
    folder = tmp_path / "export"
    mixed(folder / "decoder_model.onnx", external=True)
    pair(folder / "encoder_model.onnx", "c", "d")
    for name in COMPANIONS:
        (folder / name).write_text(f"{{}} {name}")
    for name in ("pytorch_model.bin", "model.safetensors", "model.onnx_data", ".hidden"):
        (folder / name).write_bytes(b"weights")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref")
    return folder


def test_every_model_is_quantized_and_what_belongs_to_it_is_copied(export: Path, capsys: Output) -> None:
    before = contents(export)
    assert quantize(export, *QUICK) == 0
    result = export.with_name("export-int4")
    models = ["decoder_model.onnx", "decoder_model.onnx.data", "encoder_model.onnx"]
    assert entries(result) == sorted([*COMPANIONS, *models, "1_Pooling"])
    for name in (*COMPANIONS, "1_Pooling/config.json"):
        assert (result / name).read_bytes() == (export / name).read_bytes()
    assert operators(result / "decoder_model.onnx") == ["Gather", "MatMulNBits", "MatMul", "Add", "MatMulNBits"]
    assert operators(result / "encoder_model.onnx") == ["MatMulNBits", "MatMulNBits"]
    assert contents(export) == before
    assert entries(export.parent) == ["export", "export-int4"]
    err = " ".join(capsys.readouterr().err.split())
    assert "not copied: model.onnx_data, model.safetensors, pytorch_model.bin" in err


def test_the_report_says_which_model_each_row_belongs_to(export: Path, capsys: Output) -> None:
    assert quantize(export, "--algorithm", "rtn", "--json", "--max-error", "1") == 0
    told = json.loads(capsys.readouterr().out)
    assert [(t["model"], t["name"]) for t in told["targets"]] == [
        ("decoder_model.onnx", "h"),
        ("decoder_model.onnx", "y"),
        ("encoder_model.onnx", "c"),
        ("encoder_model.onnx", "d"),
    ]
    assert [o["name"] for o in told["outputs"]] == ["decoder_model.onnx: y", "encoder_model.onnx: y"]
    assert len(told["latency"]) == 2
    assert [g["name"] for g in told["gates"]] == ["max-error"]
    result = export.with_name("export-int4")
    written = sum(path.stat().st_size for path in result.glob("*_model.onnx*"))
    assert told["size"]["output_bytes"] == written
    assert told["source"] == str(export)
    assert told["output"] == str(result)


def test_one_model_needs_no_label(tmp_path: Path) -> None:
    report = onnxfq.quantize(pair(tmp_path / "export" / "m.onnx").parent, algorithm="rtn")
    assert {t.model for t in report.targets} == {""}
    assert [o.name for o in report.outputs] == ["y"]


def test_progress_names_the_model(export: Path) -> None:
    told: list[str] = []
    onnxfq.quantize(export, algorithm="rtn", validate=False, progress=lambda what, *_: told.append(what))
    assert "encoder_model.onnx: solving" in told


def test_inspect_changes_nothing(export: Path, capsys: Output) -> None:
    before = contents(export.parent)
    assert inspect(export, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["targets"]) == 4
    assert told["gates"] == []
    assert inspect(export) == 0
    assert "decoder_model.onnx: h" in " ".join(capsys.readouterr().out.split())
    assert contents(export.parent) == before


def test_the_default_output_of_the_folder_one_stands_in(
    export: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.chdir(export)
    assert quantize(".", *QUICK) == 0
    assert entries(export.parent) == ["export", "export-int4"]


def test_an_old_result_is_replaced(export: Path) -> None:
    assert quantize(export, "--bits", "8", "-o", export.with_name("out"), *QUICK) == 0
    old = contents(export.with_name("out"))
    (export.with_name("out") / "encoder_model.onnx.data").write_text("of an earlier result")
    assert quantize(export, "-o", export.with_name("out"), *QUICK) == 0
    new = contents(export.with_name("out"))
    assert set(new) == set(old)
    assert new != old
    assert entries(export.parent) == ["export", "out"]


def test_an_empty_output_folder_is_filled(export: Path) -> None:
    export.with_name("out").mkdir()
    assert quantize(export, "-o", export.with_name("out"), *QUICK) == 0


def test_a_folder_with_something_else_in_it_is_refused_before_any_work(
    export: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    out = export.with_name("out")
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    monkeypatch.setattr(solve_weights, "solve", lambda *_: pytest.fail("work began"))
    assert quantize(export, "-o", out, *QUICK) == 3
    assert "thesis.txt" in capsys.readouterr().err
    assert contents(out) == {"thesis.txt": b"years of work"}
    assert entries(export.parent) == ["export", "out"]


def test_a_file_is_no_output_for_a_folder(export: Path, capsys: Output) -> None:
    out = export.with_name("out")
    out.write_text("a letter")
    assert quantize(export, "-o", out, *QUICK) == 2
    assert "is a file" in capsys.readouterr().err
    assert out.read_text() == "a letter"


@pytest.mark.parametrize("output", [".", "sub", "..", "../..", "../export", "link"])
def test_an_output_that_overlaps_the_source_is_refused(export: Path, output: str, capsys: Output) -> None:
    (export / "link").symlink_to(export)
    before = contents(export)
    assert quantize(export, "-o", export / output, *QUICK) == 2
    assert "overlap" in capsys.readouterr().err
    assert contents(export) == before


def test_a_neighbour_with_a_longer_name_does_not_overlap(tmp_path: Path) -> None:
    refuse_overlap(tmp_path / "export", tmp_path / "export-int4")


@pytest.mark.parametrize("stage", ["prepare", "solve", "save", "verify", "validate"])
def test_an_error_in_the_second_model_leaves_nothing(
    export: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output, stage: str
) -> None:
    home = solve_weights if stage == "solve" else pipeline
    real, calls = getattr(home, stage), iter([False, True])

    def second_fails(*args: object, **kwargs: object) -> object:
        if next(calls):
            raise onnxfq.ModelError("The second model is bad.")
        return real(*args, **kwargs)

    monkeypatch.setattr(home, stage, second_fails)
    before = contents(export)
    assert quantize(export, "--algorithm", "rtn") == 3
    assert "The second model is bad." in capsys.readouterr().err
    assert entries(export.parent) == ["export"]
    assert contents(export) == before


def test_all_models_are_checked_before_the_first_is_solved(
    export: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    (export / "zzz.onnx").write_text("no model")
    monkeypatch.setattr(solve_weights, "solve", lambda *_: pytest.fail("work began"))
    assert quantize(export, *QUICK) == 3
    assert "zzz.onnx" in capsys.readouterr().err
    assert entries(export.parent) == ["export"]


def test_damaged_weights_in_one_model(export: Path, capsys: Output) -> None:
    broken = weight()
    broken[0, 0] = np.inf
    pair(export / "encoder_model.onnx", first=broken)
    assert quantize(export, *QUICK) == 3
    assert "encoder_model.onnx" in capsys.readouterr().err
    assert entries(export.parent) == ["export"]


def test_a_model_without_targets_goes_along_unchanged(tmp_path: Path, capsys: Output) -> None:
    folder = pair(tmp_path / "export" / "m.onnx").parent
    write(parse("y = Relu(x)", y="float[M, 64] y"), folder / "post.onnx")
    assert quantize(folder, *QUICK) == 0
    assert operators(folder.with_name("export-int4") / "post.onnx") == ["Relu"]
    assert "post.onnx: Nothing to quantize." in capsys.readouterr().err
    (folder / "m.onnx").unlink()
    assert quantize(folder, "-o", tmp_path / "out", *QUICK) == 3
    assert "Nothing to quantize in" in capsys.readouterr().err


def test_models_are_files_at_the_top(tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    pair(tmp_path / "below" / "m.onnx")
    with pytest.raises(onnxfq.ModelError, match="give the folder"):
        models_of(tmp_path)
    assert models_of(pair(tmp_path / "m.onnx").parent) == [tmp_path / "m.onnx"]


def test_data_files_are_no_companions_whatever_their_name(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("weights.txt", "notes.txt"):
        (source / name).touch()
    (source / "link").symlink_to(tmp_path, target_is_directory=True)
    assert copy_companions(source, tmp_path / "result", [source / "weights.txt"]) == []
    assert entries(tmp_path / "result") == ["notes.txt"]


WAITING = """
import time
from onnxfq import cli, pipeline
real, calls = pipeline.verify, []
def wait(*args):
    calls.append(1)
    if len(calls) == 2:
        print("ready", flush=True)
        time.sleep(60)
    return real(*args)
pipeline.verify = wait
cli.main()
"""


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_a_killed_run_shows_nothing_of_the_folder(export: Path) -> None:
    command = [sys.executable, "-c", WAITING, "quantize", str(export), *QUICK]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
    assert [name for name in entries(export.parent) if not name.startswith(".")] == ["export"]
    assert quantize(export, *QUICK) == 0
    assert entries(export.parent) == ["export", "export-int4"]


def test_expressions_are_about_the_folder_as_a_whole(export: Path) -> None:
    every = pipeline.inspect(export)
    one = next(t for t in every.targets if t.model == "encoder_model.onnx")
    rest = pipeline.inspect(export, exclude=(f"^{one.name}$",))
    assert {(t.model, t.name) for t in every.targets} - {(t.model, t.name) for t in rest.targets} == {
        (one.model, one.name)
    }
    with pytest.raises(
        onnxfq.UsageError, match=r"No MatMul, Gemm, Einsum, Gather, MoE or LSTM in '.*export' matches `include=nowhere`"
    ):
        pipeline.inspect(export, include=("nowhere",))


def test_a_link_out_of_the_folder_is_not_followed(export: Path, tmp_path: Path, capsys: Output) -> None:
    """What a downloaded folder links to must not end up in what is handed on."""
    (tmp_path / "secret").write_text("secret")
    (export / "notes.txt").symlink_to("../secret")
    assert quantize(export, *QUICK) == 3
    assert "notes.txt' is a symbolic link out of the model's folder" in " ".join(capsys.readouterr().err.split())
    assert entries(tmp_path) == ["export", "secret"]


def test_links_within_the_folder_and_into_a_cache_are_followed(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123"
    pair(blobs / "aaaa")
    (blobs / "bbbb").write_text("{}")
    snapshot.mkdir(parents=True)
    (snapshot / "model.onnx").symlink_to("../../blobs/aaaa")
    (snapshot / "config.json").symlink_to("../../blobs/bbbb")
    (snapshot / "again.json").symlink_to("config.json")
    assert quantize(snapshot, "-o", tmp_path / "out", *QUICK) == 0
    assert entries(tmp_path / "out") == ["again.json", "config.json", "model.onnx"]
