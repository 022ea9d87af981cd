"""Inputs of the comparison that cannot be used: one clear message, before any long work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxfq
from onnxfq import UsageError
from support.models import model as parse
from support.models import write
from support.tiny import entries, pair, quantize, refused, weight

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def npz(folder: Path, **arrays: Any) -> Path:
    path = folder / "data.npz"
    np.savez(path, **arrays)
    return path


def empty_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def as_text(name: str, text: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_text(text)
        return folder / name

    return make


X = np.zeros((4, 64), np.float32)
BAD_DATA: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "missing": (lambda folder: folder / "nowhere.npz", ("There is no file", "nowhere.npz")),
    "of another kind": (as_text("data.csv", "1,2\n"), ("data.csv", "Use .npz, .npy, .jsonl or .txt")),
    "unknown input": (lambda folder: npz(folder, x=X, mask=X), ("no such inputs", "mask", "Its inputs: x")),
    "no input": (lambda folder: npz(folder), ("no samples",)),
    "wrong shape": (lambda folder: npz(folder, x=X[:, :63]), ("[1, 63]", "[M, 64]")),
    "wrong rank": (lambda folder: npz(folder, x=X[0][:63]), ("shape [63]", "[M, 64]")),
    "wrong type": (lambda folder: npz(folder, x=X.astype(np.complex64)), ("complex64", "float32")),
    "not finite": (lambda folder: npz(folder, x=X + np.float32(np.nan)), ("NaN",)),
    "empty": (lambda folder: npz(folder, x=X[:0]), ("no samples",)),
    "not an archive": (as_text("data.npz", "x" * 100), ("data.npz", "numpy.savez")),
    "not JSON": (as_text("data.jsonl", "{'x': 1}\n"), ("data.jsonl",)),
    "text without a tokenizer": (as_text("data.jsonl", '{"text": "Hello"}\n'), ("tokenizer.json", "--tokenizer")),
    "an empty folder": (empty_folder, ("no .npz or .npy files",)),
}


@pytest.mark.parametrize("kind", BAD_DATA)
def test_data_that_cannot_be_used(kind: str, tmp_path: Path, capsys: Output) -> None:
    make, says = BAD_DATA[kind]
    model, calib = pair(tmp_path / "m.onnx"), make(tmp_path)
    refused(tmp_path, capsys, model, "--algorithm", "rtn", "--calib", calib, says=says)


def test_data_that_fit_are_used_and_named(tmp_path: Path, capsys: Output) -> None:
    calib = npz(tmp_path, x=np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32))
    assert quantize(pair(tmp_path / "m.onnx"), "--algorithm", "rtn", "--calib", calib) == 0
    out, err = capsys.readouterr()
    assert "given: data.npz" in out
    assert "made up" not in err


def test_a_missing_tokenizer_is_named(tmp_path: Path, capsys: Output) -> None:
    body = "e = Gather(table, input_ids) y = MatMul(e, w)"
    proto = parse(body, x="int64[batch, tokens] input_ids", y="float[batch, tokens, 64] y", table=weight(), w=weight(1))
    path = write(proto, tmp_path / "m.onnx")
    calib = as_text("data.txt", "Hello world.")(tmp_path)
    code = quantize(path, "--algorithm", "rtn", "--calib", calib)
    err = capsys.readouterr().err
    assert code in (2, 3)
    assert "tokenizer" in err
    assert entries(tmp_path) == ["data.txt", "m.onnx"]


def test_a_model_that_writes_its_own_data_must_fit_into_memory(tmp_path: Path) -> None:
    model = pair(tmp_path / "m.onnx")
    with pytest.raises(UsageError, match=r'`calib="self"` runs .* as a whole, .*got `memory=1 kB`.*`calib=FILE`'):
        onnxfq.quantize(model, algorithm="gptq", calib="self", memory="1kB")
    assert entries(tmp_path) == ["m.onnx"]
