"""Models and data that cannot be handled: one clear message, the right exit code, nothing left behind."""

from __future__ import annotations

import json
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

from onnxfq.errors import ModelError
from onnxfq.quantization import solve_weights
from onnxfq.quantization.solve import solve
from onnxfq.session import Session
from support.models import model as parse
from support.models import refer, tensor, write
from support.tiny import QUICK, custom, entries, inspect, mixed, operators, pair, quantize, refused, weight

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


# Files that are no model


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.onnx", b"\x08\x08" * 100)


NOT_ONNX: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("This is a letter, not a model.\n" * 20),
    "json": lambda path: path.write_text(json.dumps({"ir_version": 8, "graph": {}})),
    "zip": zipped,
    "noise": lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)),
    "zeros": lambda path: path.write_bytes(bytes(5000)),
    "empty": lambda path: path.write_bytes(b""),
    "pointer": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
    "other protobuf": lambda path: path.write_bytes(tensor(weight(), "w").SerializeToString()),
    "empty model": lambda path: path.write_bytes(onnx.ModelProto(ir_version=8).SerializeToString()),
}


@pytest.mark.parametrize("kind", NOT_ONNX)
def test_what_is_no_model(kind: str, tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "m.onnx"
    NOT_ONNX[kind](path)
    refused(tmp_path, capsys, path, says=str(path))
    assert inspect(path) == 3


def test_a_missing_file(tmp_path: Path, capsys: Output) -> None:
    refused(tmp_path, capsys, tmp_path / "nowhere.onnx", says=("No such file", "nowhere.onnx"))
    refused(tmp_path, capsys, tmp_path / "nowhere" / "m.onnx", says="No such file")
    refused(tmp_path, capsys, tmp_path / ("x" * 300), code=2, says="too long")


def test_a_folder_without_models(tmp_path: Path, capsys: Output) -> None:
    folder = tmp_path / "export"
    pair(folder / "onnx" / "m.onnx")
    refused(tmp_path, capsys, folder, says=("No ONNX model in", f"give the folder '{folder / 'onnx'}'"))


def test_something_that_is_neither_file_nor_folder(tmp_path: Path, capsys: Output) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("needs named pipes")
    pipe = tmp_path / "m.onnx"
    os.mkfifo(pipe)
    assert quantize(pipe, *QUICK) == 3
    assert "is not a file" in capsys.readouterr().err
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    model = pair(tmp_path / "m.onnx")
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # nothing is closed to root

        def closed(*_args: object, **_kwargs: object) -> None:
            raise PermissionError(13, "Permission denied")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", closed)
            assert quantize(model, *QUICK) == 3
    else:
        model.chmod(0)
        assert quantize(model, *QUICK) == 3
        model.chmod(0o600)
    assert "Permission denied" in capsys.readouterr().err
    assert entries(tmp_path) == ["m.onnx"]


@pytest.mark.parametrize("part", [0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999])
def test_a_truncated_file(part: float, tmp_path: Path, capsys: Output) -> None:
    path = mixed(tmp_path / "m.onnx")
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    refused(tmp_path, capsys, path, *QUICK, says=str(path))


def test_names_that_are_no_text(tmp_path: Path, capsys: Output) -> None:
    path = pair(tmp_path / "m.onnx", "firstly", "second")
    path.write_bytes(path.read_bytes().replace(b"firstly", b"\xff\xfe\xffstly"))
    refused(tmp_path, capsys, path, *QUICK, says="not UTF-8 text")


# External data


def external(tmp_path: Path) -> tuple[Path, Path]:
    return pair(tmp_path / "m.onnx", external=True), tmp_path / "m.0.bin"


def test_external_data_that_are_missing(tmp_path: Path, capsys: Output) -> None:
    path, data = external(tmp_path)
    data.unlink()
    refused(tmp_path, capsys, path, says=("is missing", "m.0.bin", "Put it beside the model"))


def test_external_data_that_are_too_short(tmp_path: Path, capsys: Output) -> None:
    path, data = external(tmp_path)
    os.truncate(data, data.stat().st_size - 1)
    refused(tmp_path, capsys, path, says=("cut short", "m.0.bin"))


@pytest.mark.parametrize("location", ["../secret.bin", "sub/../../secret.bin", "ABSOLUTE", "C:\\secret.bin", ""])
def test_external_data_outside_the_models_folder(location: str, tmp_path: Path, capsys: Output) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(weight().tobytes())
    (tmp_path / "model" / "sub").mkdir(parents=True)
    path = pair(tmp_path / "model" / "m.onnx")
    proto = onnx.load(path)
    where = str(secret) if location == "ABSOLUTE" else location
    refer(proto.graph.initializer[0], where, 0, weight().nbytes)
    write(proto, path)
    refused(tmp_path, capsys, path, *QUICK, says="leaves the model's folder: refused")


def test_external_data_behind_a_link_out_of_the_folder(tmp_path: Path, capsys: Output) -> None:
    path = pair(tmp_path / "model" / "m.onnx", external=True)
    data = path.with_name("m.0.bin")
    data.rename(tmp_path / "secret.bin")
    data.symlink_to(tmp_path / "secret.bin")
    refused(tmp_path, capsys, path, *QUICK, says="symbolic link out of the model's folder")


def test_external_data_that_vanish_during_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    path, data = external(tmp_path)

    def vanishing(*args: Any) -> object:
        data.unlink()
        return solve(*args)

    monkeypatch.setattr(solve_weights, "solve", vanishing)
    assert quantize(path, *QUICK) == 3
    err = capsys.readouterr().err
    assert "m.0.bin" in err
    assert "Traceback" not in err
    assert entries(tmp_path) == ["m.onnx"]


# Weights and operators


@pytest.mark.parametrize("rows", [16, 64])
def test_all_weights_that_are_not_finite_are_listed(
    rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    chunks = [slice(start, start + rows) for start in range(0, 64, rows)]
    weights = [weight(0), weight(1), weight(2)]
    weights[0][5, 7], weights[2][63, 63] = np.nan, -np.inf
    proto = parse(
        "a = MatMul(x, w0) b = MatMul(a, w1) c = MatMul(b, w2) y = MatMul(c, w2)",
        y="float[M, 64] y",
        w0=weights[0],
        w1=weights[1],
        w2=weights[2],
    )
    path = write(proto, tmp_path / "m.onnx")
    with monkeypatch.context() as patch:
        patch.setattr("onnxfq.quantization.solve.row_chunks", lambda *_: chunks)
        message = refused(tmp_path, capsys, path, *QUICK, says=("2 weights", "'w0'", "'w2'", "--exclude"))
    assert "'w1'" not in message
    assert message.count("'w2'") == 1
    assert quantize(path, *QUICK, "--exclude", "^[acy]$") == 0


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_weights_that_are_not_finite(dtype: type, tmp_path: Path, capsys: Output) -> None:
    broken: Any = weight().astype(dtype)
    broken[0, 0] = np.nan
    body = "h = Cast<to = 1>(w) y = MatMul(x, h)"
    path = write(parse(body, y="float[M, 64] y", w=broken), tmp_path / "m.onnx")
    refused(tmp_path, capsys, path, *QUICK, says=("1 weight", "'w'"))


def test_large_finite_weights_are_fine(tmp_path: Path) -> None:
    assert quantize(pair(tmp_path / "m.onnx", first=weight() * np.float32(1e30)), *QUICK) == 0


def test_an_operator_that_onnx_runtime_does_not_know(tmp_path: Path, capsys: Output) -> None:
    path = custom(tmp_path / "m.onnx")
    refused(tmp_path, capsys, path, "--algorithm", "rtn", says=("acme", "Mystery", "--no-validate"))
    assert quantize(path, *QUICK) == 0
    assert operators(tmp_path / "m.int4.onnx") == ["MatMulNBits", "Mystery"]
    assert "NOT VALIDATED" in capsys.readouterr().err


def test_a_domain_that_is_not_imported(tmp_path: Path, capsys: Output) -> None:
    refused(tmp_path, capsys, custom(tmp_path / "m.onnx", domains=""), *QUICK, says=("breaks ONNX's rules", "acme"))


def test_an_operator_that_does_not_exist(tmp_path: Path, capsys: Output) -> None:
    path = write(parse("h = MatMul(x, w) y = Mystery(h)", y="float[M, 64] y", w=weight()), tmp_path / "m.onnx")
    refused(tmp_path, capsys, path, *QUICK, says=("breaks ONNX's rules", "Mystery"))


def test_a_model_that_does_not_run(tmp_path: Path, capsys: Output) -> None:
    body = "h = MatMul(x, w) y = Gather <axis = 1> (h, beyond)"  # at every size
    proto = parse(body, y="float[M, 1] y", w=weight(), beyond=np.array([99], np.int64))
    path = write(proto, tmp_path / "m.onnx")
    assert quantize(path, "--algorithm", "rtn") == 0
    assert entries(tmp_path) == ["m.int4.onnx", "m.onnx"]
    err = capsys.readouterr().err
    assert "NOT COMPARED" in err
    assert "--calib" in err
    assert quantize(path, "--algorithm", "rtn", "--max-error", "1") == 1  # a figure that was not measured


def test_a_model_without_matrix_products(tmp_path: Path, capsys: Output) -> None:
    path = write(parse("y = Relu(x)", y="float[M, 64] y"), tmp_path / "m.onnx")
    refused(tmp_path, capsys, path, says=("Nothing to quantize", "no MatMul, Gemm, Einsum, Gather, MoE or LSTM"))


def test_a_model_of_too_small_weights(tmp_path: Path, capsys: Output) -> None:
    path = write(parse("y = MatMul(x, w)", y="float[M, 8] y", w=weight(0, 64, 8)), tmp_path / "m.onnx")
    refused(tmp_path, capsys, path, says=("Nothing to quantize", "1x too small: 512 weights"))


def test_a_model_that_is_quantized_already(tmp_path: Path, capsys: Output) -> None:
    path = pair(tmp_path / "m.onnx")
    assert quantize(path, *QUICK) == 0
    assert quantize(tmp_path / "m.int4.onnx", "--algorithm", "rtn", "-o", tmp_path / "again.onnx") == 0
    assert "is already quantized: nothing was left to do" in capsys.readouterr().err
    assert entries(tmp_path) == ["m.int4.onnx", "m.onnx"]


def test_activations_that_the_cpu_does_not_take(tmp_path: Path, capsys: Output) -> None:
    proto = parse("y = MatMul(x, w)", x="bfloat16[M, 64] x", y="bfloat16[M, 64] y", w=weight().astype("bfloat16"))
    path = write(proto, tmp_path / "m.onnx")
    says = ("bfloat16", "on cpu", "choose another provider")
    refused(tmp_path, capsys, path, *QUICK, "--provider", "cpu", code=2, says=says)


def test_a_slow_scheme_needs_consent(tmp_path: Path, capsys: Output) -> None:
    path = pair(tmp_path / "m.onnx")
    slow = ("--bits", "2", "--block-size", "16", "--provider", "cpu")
    refused(tmp_path, capsys, path, *QUICK, *slow, code=2, says=("run slower", "nearest fast scheme", "--allow-slow"))
    assert quantize(path, *QUICK, *slow, "--allow-slow") == 0
    assert "slower than in floating point" in capsys.readouterr().err


def test_an_output_that_does_not_load_is_our_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    def session(path: Path, **options: Any) -> Session:
        if "int4" in path.name:
            raise ModelError(f"ONNX Runtime cannot load {path}.")
        return Session(path, **options)

    monkeypatch.setattr("onnxfq.quantization.validate.Session", session)
    says = ("The original runs, the quantized model does not. Please report this", str(tmp_path / "m.int4.onnx"))
    refused(tmp_path, capsys, pair(tmp_path / "m.onnx"), "--algorithm", "rtn", says=says)
