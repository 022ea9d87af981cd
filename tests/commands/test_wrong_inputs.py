"""What people really pass for a model: each kind is named, with its own remedy, before anything heavy is imported."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxfq
from onnxfq import cli
from support.models import write_external
from support.tiny import pair

Output = pytest.CaptureFixture[str]
Make = Callable[[Path], object]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.onnx"))
    return file.getvalue()


def arrays() -> bytes:
    file = io.BytesIO()
    np.savez(file, x=np.ones(3))
    return file.getvalue()


def truncated() -> bytes:
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "graph",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])],
        [onnx.numpy_helper.from_array(np.ones(10000, np.float32), "w")],
    )
    return bytes(onnx.helper.make_model(graph).SerializeToString()[:20000])


HEADER = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
PICKLED = pickle.dumps({"weight": [1.0]}, protocol=2)
REPORT = json.dumps({"version": 3, "source": "m.onnx", "algorithm": "hqq"}).encode()

# Name and content of a file → what is said of it, and what to do.
FILES: dict[str, tuple[str, bytes, tuple[str, ...]]] = {
    "PyTorch": ("model.pt", zipped("model/data.pkl", "model/data/0"), ("PyTorch checkpoint", "onnxfq export")),
    "PyTorch of the hub": ("pytorch_model.bin", zipped("archive/data.pkl"), ("PyTorch checkpoint", "onnxfq export")),
    "old PyTorch": ("model.pth", PICKLED, ("PyTorch checkpoint", "onnxfq export")),
    "TorchScript": ("m.pt", zipped("m/data.pkl", "m/constants.pkl"), ("TorchScript", "torch.onnx.export")),
    "pickle": ("model.pkl", PICKLED, ("Python pickle", "skl2onnx")),
    "safetensors": ("m.safetensors", len(HEADER).to_bytes(8, "little") + HEADER, ("safetensors", "onnxfq export")),
    "GGUF": ("llama.gguf", b"GGUF\x03\0\0\0" + bytes(64), ("llama.cpp", "onnxfq export")),
    "GGML": ("llama.bin", b"lmgg" + bytes(64), ("llama.cpp", "onnxfq export")),
    "TFLite": ("m.tflite", b"\x1c\0\0\0TFL3" + bytes(64), ("TensorFlow Lite", "tf2onnx")),
    "saved model": ("saved_model.pb", b"\x08\x01\x12\x05abcde", ("TensorFlow model", "tf2onnx")),
    "frozen graph": ("frozen.pb", b"\x0a\x05abcde", ("TensorFlow model", "tf2onnx")),
    "Keras HDF5": ("m.h5", b"\x89HDF\r\n\x1a\n" + bytes(64), ("Keras", "tf2onnx")),
    "Keras": ("m.keras", zipped("metadata.json", "model.weights.h5"), ("Keras", "tf2onnx")),
    "ORT format": ("m.ort", b"\x18\0\0\0ORTM" + bytes(64), (".ort", "Give the ONNX file")),
    "TensorRT": ("m.plan.onnx", b"ftrt" + bytes(64), ("TensorRT engine", "Give the ONNX file")),
    "TensorRT by name": ("m.engine", b"\x08anything", ("TensorRT engine", "Give the ONNX file")),
    "OpenVINO": ("m.xml", b'<?xml version="1.0"?>\n<net name="m" version="11">', ("OpenVINO", "Give the ONNX file")),
    "Core ML": ("m.mlmodel", b"\x08\x04\x12\x05abcde", ("Core ML", "convert")),
    "Core ML package": ("m.zip", zipped("Data/m.mlmodel"), ("Core ML", "convert")),
    "PaddlePaddle": ("m.pdmodel", b"\x0a\x05abcde", ("PaddlePaddle", "paddle2onnx")),
    "Flax": ("flax_model.msgpack", b"\x81\xa3abc", ("Flax", "onnxfq export")),
    "MXNet": ("m-symbol.json", b'{"nodes": [], "arg_nodes": []}', ("MXNet", "mxnet")),
    "arrays": ("m.npz", arrays(), ("NumPy arrays", "--calib")),
    "array": ("m.npy", b"\x93NUMPY\x01\0" + bytes(64), ("NumPy arrays", "--calib")),
    "LFS pointer": (
        "model.onnx",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        ("Git LFS pointer", "git lfs pull"),
    ),
    "web page": ("model.onnx", b"\n<!DOCTYPE html>\n<html><body>404</body></html>", ("web page", "/resolve/")),
    "XML error": ("model.onnx", b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", ("XML", "again")),
    "JSON": ("config.json", b'{"model_type": "llama"}', ("JSON file", "Give the path of an ONNX file")),
    "report": ("report.json", REPORT, ("report of onnxfq", "onnxfq report")),
    "text": ("README.md", "# Modèle\n\nSome words.\n".encode(), ("text file", "Give the path of an ONNX file")),
    "ONNX as text": ("m.onnxtxt", b'<ir_version: 8, opset_import: ["" : 17]> g () => () {}', ("as text", "onnx.save")),
    "zip": ("m.zip", zipped("model.onnx"), ("archive", "Unpack")),
    "broken zip": ("m.pt", zipped("model/data.pkl")[:40], ("breaks off", "again")),
    "tar": ("m.tar", tarred(), ("archive", "Unpack")),
    "gzip": ("m.onnx.gz", gzip.compress(b"model"), ("archive", "Unpack")),
    "program": ("m.onnx", b"\x7fELF" + bytes(64), ("program", "ONNX file")),
    "zeros": ("model.onnx", bytes(10000), ("zeros", "again")),
    "unfinished download": ("model.onnx.crdownload", b"\x08\x08", ("unfinished download", "again")),
    "empty": ("model.onnx", b"", ("is empty", "again")),
    "truncated": ("model.onnx", truncated(), ("not a whole ONNX model", "again")),
    "noise": ("model.onnx", b"\xff\xfe\xfb" * 1000, ("unknown kind", "again")),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("verb", ["quantize", "inspect"])
def test_a_file_that_is_no_model_is_named_with_its_remedy(tmp_path: Path, capsys: Output, verb: str, kind: str) -> None:
    name, content, expected = FILES[kind]
    (tmp_path / name).write_bytes(content)
    assert cli.run([verb, str(tmp_path / name)]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert [text for text in (name, *expected) if text not in err] == []
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [name]


def folder(*names: str) -> Make:
    def make(place: Path) -> None:
        for name in names:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).touch()

    return make


FOLDERS: dict[str, tuple[Make, tuple[str, ...]]] = {
    "checkpoint": (folder("config.json", "model.safetensors"), ("checkpoint", "onnxfq export 'given' OUT")),
    "old checkpoint": (folder("config.json", "pytorch_model-00001-of-00002.bin"), ("onnxfq export 'given' OUT",)),
    "adapter": (folder("adapter_config.json", "adapter_model.safetensors"), ("adapter", "merge_and_unload")),
    "saved model": (folder("saved_model.pb", "variables/variables.index"), ("tf2onnx",)),
    "Core ML package": (folder("Manifest.json", "Data/model.mlmodel"), ("Core ML",)),
    "OpenVINO": (folder("openvino_model.xml", "openvino_model.bin"), ("OpenVINO", "onnxfq export")),
    "GGUF": (folder("a.gguf"), ("llama.cpp", "onnxfq export")),
    "models below": (folder("onnx/model.onnx"), ("give the folder 'given/onnx'",)),
    "nothing": (folder("notes.md"), ("Export one there",)),
}


@pytest.mark.parametrize("kind", FOLDERS)
@pytest.mark.parametrize("verb", ["quantize", "inspect", "evaluate", "benchmark"])
def test_a_folder_without_models_is_told_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output, verb: str, kind: str
) -> None:
    make, expected = FOLDERS[kind]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "given").mkdir()
    make(tmp_path / "given")
    assert cli.run([verb, "given"]) == 3
    err = capsys.readouterr().err
    assert [text for text in ("No ONNX model in 'given'", *expected) if text not in err] == []


NOWHERE = {
    "meta-llama/Llama-3.2-1B": ("Hugging Face hub", "`onnxfq export meta-llama/Llama-3.2-1B OUT`"),
    "https://huggingface.co/BAAI/bge-small-en": ("Hugging Face hub", "`onnxfq export BAAI/bge-small-en OUT`"),
    "https://example.com/model.onnx": ("an address", "Download"),
    "s3://bucket/model.onnx": ("an address", "Download"),
    "gpt2": ("No such file", "`onnxfq export gpt2 OUT`"),
    "modle.onnx": ("No such file", "Did you mean 'model.onnx'?"),
    "nowhere/model.onnx": ("No such file", "no folder 'nowhere'"),
    "models/other.onnx": ("No such file", "Give the path"),
    "absent.onnx": ("No such file", "Give the path"),
}


@pytest.mark.parametrize("given", NOWHERE)
@pytest.mark.parametrize("verb", ["quantize", "inspect", "evaluate", "benchmark"])
def test_a_path_that_leads_nowhere_gets_what_was_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output, verb: str, given: str
) -> None:
    monkeypatch.chdir(tmp_path)
    pair(tmp_path / "model.onnx")
    (tmp_path / "models").mkdir()
    assert cli.run([verb, given]) == 3
    err = capsys.readouterr().err
    assert [text for text in NOWHERE[given] if text not in err] == []


@pytest.mark.parametrize("name", ["m.onnx.data", "m.onnx_data", "m.onnx_data_1", "m.data", "m.bin", "m.weights"])
def test_external_data_lead_to_their_model(tmp_path: Path, capsys: Output, name: str) -> None:
    pair(tmp_path / "m.onnx")
    (tmp_path / name).write_bytes(np.random.default_rng(0).bytes(1000))
    assert cli.run(["quantize", str(tmp_path / name)]) == 3
    assert f"Give '{tmp_path / 'm.onnx'}'" in capsys.readouterr().err


def test_a_checkpoint_in_its_folder_is_exported_from_there(tmp_path: Path, capsys: Output) -> None:
    folder("config.json")(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(len(HEADER).to_bytes(8, "little") + HEADER)
    assert cli.run(["quantize", str(tmp_path / "model.safetensors")]) == 3
    assert f"`onnxfq export '{tmp_path}' OUT`" in capsys.readouterr().err


def test_a_pointer_in_a_folder_of_models_is_named(tmp_path: Path, capsys: Output) -> None:
    pair(tmp_path / "a.onnx")
    (tmp_path / "b.onnx").write_bytes(FILES["LFS pointer"][1])
    assert cli.run(["quantize", str(tmp_path)]) == 3
    err = capsys.readouterr().err
    assert "b.onnx" in err
    assert "git lfs pull" in err


def test_python_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "llama.gguf").write_bytes(FILES["GGUF"][1])
    for act in (onnxfq.quantize, onnxfq.inspect, onnxfq.benchmark):
        with pytest.raises(onnxfq.ModelError, match=r"llama\.cpp"):
            act(tmp_path / "llama.gguf")
    with pytest.raises(onnxfq.ModelError, match="onnxfq export"):
        onnxfq.inspect("meta-llama/Llama-3.2-1B")


def test_models_of_any_name_are_models(tmp_path: Path) -> None:
    proto = onnx.load(pair(tmp_path / "m.onnx"))
    for name in ("model.pb", "model.bin", "model", "model.onnx.download", "model.pt"):
        (tmp_path / name).write_bytes(proto.SerializeToString())
        assert len(onnxfq.inspect(tmp_path / name).targets) == 2
    proto.producer_name = "GGUF <html>"
    assert len(onnxfq.inspect(write_external(proto, tmp_path / "x.onnx")).targets) == 2


# Without anything heavy

HEAVY = {"numpy", "numba", "onnx", "onnxruntime", "ml_dtypes", "jinja2", "tokenizers"}
CHECKING_PATHS = {
    "quantize nowhere.onnx": 3,
    "quantize llama.gguf": 3,
    "quantize empty": 3,
    "quantize m.onnx --report nowhere/r.json": 2,
    "quantize m.onnx --report r.txt": 2,
    "quantize m.onnx --provider tpu": 2,
    "quantize m.onnx --unknown": 2,
    "inspect nowhere.onnx": 3,
    "evaluate nowhere.onnx": 3,
    "evaluate m.onnx --baseline llama.gguf": 3,
    "benchmark nowhere.onnx": 3,
    "benchmark m.onnx --baseline nowhere.onnx": 3,
    "benchmark m.onnx --lengths one": 2,
    "report nowhere.json": 3,
    "report llama.gguf": 3,
    "export /nowhere/at/all out": 2,
    "--help": 0,
    "--version": 0,
    "quantize --help": 0,
}
CHECKING_OPTIONS = {
    "quantize m.onnx --bits 5": 2,
    "quantize m.onnx --block-size 24": 2,
    "quantize m.onnx --samples 0": 2,
    "quantize m.onnx --memory lots": 2,
    "quantize m.onnx --max-error nan": 2,
    "quantize m.onnx --executor dusk": 2,
    "quantize m.onnx --calib nowhere.txt": 3,
    "quantize m.onnx --quiet --verbose": 2,
    "inspect m.onnx --scheme x=bits:3": 2,
}
RUN_ALL = """
import contextlib, io, json, sys
from onnxfq.cli import run
found = {}
for line, code in json.load(sys.stdin).items():
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        got = run(line.split())
    loaded = sorted(HEAVY & set(sys.modules))
    if loaded or got != code:
        found[line] = [got, loaded]
        break
print(json.dumps(found))
"""


@pytest.mark.parametrize(
    ("lines", "heavy"),
    [(CHECKING_PATHS, HEAVY), (CHECKING_OPTIONS, {"numba", "onnx", "onnxruntime", "jinja2", "tokenizers"})],
    ids=["paths", "options"],
)
def test_wrong_requests_are_answered_before_anything_heavy_is_imported(
    tmp_path: Path, lines: dict[str, int], heavy: set[str]
) -> None:
    pair(tmp_path / "m.onnx")
    (tmp_path / "llama.gguf").write_bytes(FILES["GGUF"][1])
    (tmp_path / "empty").mkdir()
    command = [sys.executable, "-c", f"HEAVY = {heavy!r}\n{RUN_ALL}"]
    done = subprocess.run(
        command, input=json.dumps(lines), cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stdout) == {}
