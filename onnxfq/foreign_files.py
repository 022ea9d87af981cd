"""What is no ONNX model but is given as one: each kind by its first bytes or its name, and what to do instead.

Imports nothing heavy: a wrong file is answered at once. What is not recognized here is left to whoever reads models.
"""

from __future__ import annotations

import re
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from onnxfq.errors import ModelError


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        what: it is, in words.
        remedy: how to come to an ONNX model, or where the model is; {path} stands for the file.
    """

    what: str
    remedy: str


_EXPORT = "Export the model instead: `onnxfq export NAME_OR_FOLDER OUT` takes a checkpoint of the Hugging Face hub"
_AGAIN = "Fetch the model again"
_ORIGINAL = "Give the ONNX file that it was made from"

_LFS = Kind("a Git LFS pointer, which only names the model", "Fetch the file itself with `git lfs pull`.")
_HTML = Kind(
    "a web page: a download that failed, or wanted a login",
    f"{_AGAIN} from the address of the file itself (of a Hugging Face page: `/resolve/` instead of `/blob/`).",
)
_TORCH = Kind("a PyTorch checkpoint", f"{_EXPORT}; for other models there is torch.onnx.export.")
_TORCHSCRIPT = Kind("a TorchScript or exported PyTorch program", "Convert the model with torch.onnx.export.")
_SAFETENSORS = Kind("a safetensors file, weights without a graph", f"{_EXPORT}.")
_GGUF = Kind("a model for llama.cpp (GGUF, GGML), which ONNX cannot hold", f"{_EXPORT}, of which it was made.")
_PICKLE = Kind("a Python pickle", f"{_EXPORT}, or use the converter of its library (torch.onnx.export, skl2onnx).")
_TF = Kind("a TensorFlow model", "Convert it with tf2onnx (`python -m tf2onnx.convert`).")
_KERAS = Kind("a Keras model or other HDF5 file", "Convert the model with tf2onnx, or `model.export(…, 'onnx')`.")
_TFLITE = Kind("a TensorFlow Lite model", "Convert it with tf2onnx (`python -m tf2onnx.convert`).")
_ORT = Kind("a model in ONNX Runtime's own format (.ort)", f"{_ORIGINAL}.")
_ENGINE = Kind("a TensorRT engine, compiled for one GPU", f"{_ORIGINAL}.")
_DEVICE = Kind("a model compiled for one device", f"{_ORIGINAL}.")
_OPENVINO = Kind("an OpenVINO model", f"{_ORIGINAL}, or export the checkpoint with `onnxfq export`.")
_COREML = Kind("a Core ML model", f"{_ORIGINAL}, or convert the original model to ONNX.")
_ARRAYS = Kind("a file of NumPy arrays", "Give the model as MODEL, and arrays with `calib={path}`.")
_ARCHIVE = Kind("an archive or compressed file", "Unpack it, and give the ONNX file or folder in it.")
_CUT_ZIP = Kind("a ZIP archive or PyTorch checkpoint that breaks off", f"{_AGAIN}.")
_NEMO = Kind("a NeMo model", "Convert it with NeMo's `model.export('model.onnx')`.")
_PADDLE = Kind("a PaddlePaddle model", "Convert it with paddle2onnx.")
_FLAX = Kind("weights of a Flax model", f"{_EXPORT}.")
_CAFFE = Kind("a Caffe model", "Convert it to ONNX first.")
_MXNET = Kind("an MXNet model", "Convert it with mxnet.onnx.export_model.")
_PROGRAM = Kind("a program or library", "Give the path of an ONNX file.")
_ZEROS = Kind("nothing but zeros at its beginning: a download that was not finished", f"{_AGAIN}.")
_EMPTY = Kind("empty", f"{_AGAIN}, or export it again.")
_PARTIAL = Kind("an unfinished download", f"{_AGAIN}.")
_ONNX_TEXT = Kind("ONNX as text", "Turn it into an ONNX file with onnx.parser, google.protobuf, and onnx.save.")
_REPORT = Kind("a report of onnxfq", "Show it with `onnxfq report {path}`.")
_JSON = Kind("a JSON file", "Give the path of an ONNX file, or of a folder with some.")
_XML = Kind("an XML file, such as a failed download", f"{_AGAIN}.")
_TEXT = Kind("a text file", "Give the path of an ONNX file, or of a folder with some.")
_UNKNOWN = Kind("a file of an unknown kind", f"{_AGAIN}, if it ought to be one.")

_MAGIC = (
    (0, b"GGUF", _GGUF), (0, b"lmgg", _GGUF), (0, b"fmgg", _GGUF), (0, b"tjgg", _GGUF),
    (0, b"\x89HDF\r\n\x1a\n", _KERAS), (0, b"\x93NUMPY", _ARRAYS), (4, b"TFL3", _TFLITE), (4, b"ORTM", _ORT),
    (0, b"ptrt", _ENGINE), (0, b"ftrt", _ENGINE), (0, b"RKNN", _DEVICE), (0, b"\x7fELF", _PROGRAM),
    (0, b"MZ", _PROGRAM), (257, b"ustar", _ARCHIVE), (0, b"\x1f\x8b", _ARCHIVE), (0, b"BZh", _ARCHIVE),
    (0, b"\xfd7zXZ\x00", _ARCHIVE), (0, b"7z\xbc\xaf\x27\x1c", _ARCHIVE), (0, b"\x28\xb5\x2f\xfd", _ARCHIVE),
    (0, b"Rar!", _ARCHIVE),
)  # fmt: skip
# Formats that have no first bytes of their own.
_SUFFIXES = {
    ".mlmodel": _COREML, ".engine": _ENGINE, ".plan": _ENGINE, ".trt": _ENGINE, ".pdmodel": _PADDLE,
    ".pdiparams": _PADDLE, ".caffemodel": _CAFFE, ".msgpack": _FLAX, ".nemo": _NEMO, ".hef": _DEVICE, ".dlc": _DEVICE,
    ".blob": _DEVICE, ".part": _PARTIAL, ".partial": _PARTIAL, ".crdownload": _PARTIAL, ".incomplete": _PARTIAL,
    ".aria2": _PARTIAL,
}  # fmt: skip
_HEAD_BYTES = 4096
_LONGEST_SAFETENSORS_HEADER = 100_000_000
_EXTERNAL = re.compile(r"(.+\.onnx)[._]data(?:_\d+)?")
_EXTERNAL_SUFFIXES = (".data", ".bin", ".weight", ".weights")
_GROUPS = (3, 4, 6, 7)  # protobuf's wire types that no ONNX file has


def refuse_foreign(path: Path) -> None:
    """Refuse a file that is no ONNX model, with what it is and what to do.

    Raises:
        ModelError: it is of a kind known here. A missing or unreadable file is not.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except (OSError, ValueError):  # ValueError: a null character in the name
        return
    owner = _model_beside(path)
    if owner is not None:
        raise ModelError(f"'{path}' holds weights of the model '{owner}' beside it. Give '{owner}'.")
    kind = _kind(path, head)
    if kind is _EMPTY:
        raise ModelError(f"'{path}' is empty. {kind.remedy}")
    if kind is not None:
        remedy = kind.remedy.replace("{path}", str(path))
        raise ModelError(f"'{path}' is {kind.what}, not an ONNX model. {remedy}{_folder_hint(path, kind)}")


def _kind(path: Path, head: bytes) -> Kind | None:
    """What a file is; None where it may be an ONNX model."""
    if not head:
        return _EMPTY
    suffix = path.suffix.lower()
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    for offset, magic, kind in _MAGIC:
        if head.startswith(magic, offset):
            return kind
    for recognize in (_zip_kind, _binary_kind, _text_kind):
        if found := recognize(path, head):
            return found
    wire, number = head[0] & 7, (head[0] & 0x7F) >> 3 if head[0] < 0x80 else 1
    return _UNKNOWN if wire in _GROUPS or not number else None


def _zip_kind(path: Path, head: bytes) -> Kind | None:
    if not head.startswith(b"PK\x03\x04"):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return _CUT_ZIP
    holds: tuple[tuple[Kind, Callable[[str], bool]], ...] = (
        (_TORCHSCRIPT, lambda name: name.endswith(("/constants.pkl", "models/model.json"))),
        (_TORCH, lambda name: name.endswith("/data.pkl")),
        (_ARRAYS, lambda name: name.endswith(".npy")),
        (_COREML, lambda name: name.endswith(".mlmodel")),
        (_KERAS, lambda name: name.endswith("model.weights.h5")),
    )
    return next((kind for kind, fits in holds if any(map(fits, names))), _ARCHIVE)


def _binary_kind(path: Path, head: bytes) -> Kind | None:
    suffix = path.suffix.lower()
    if head[0] == 0x80 and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return _TORCH if suffix in (".pt", ".pth", ".bin", ".ckpt") else _PICKLE
    if head[8:9] == b"{" and 1 < int.from_bytes(head[:8], "little") < _LONGEST_SAFETENSORS_HEADER:
        return _SAFETENSORS
    if path.name == "saved_model.pb" or (suffix == ".pb" and head[0] == 0x0A):
        return _TF
    return _ZEROS if not head.strip(b"\0") else None


def _text_kind(_: Path, head: bytes) -> Kind | None:
    try:
        text = head.decode("utf-8-sig", errors="strict" if len(head) < _HEAD_BYTES else "ignore").lstrip()
    except UnicodeDecodeError:
        return None
    if any(ord(letter) < 32 and letter not in "\t\n\r\f" for letter in text):
        return None
    low = text.lower()
    if low.startswith(("version https://git-lfs", "version https://hawser")):
        return _LFS
    if "<html" in low or low.startswith("<!doctype html"):
        return _HTML
    if low.startswith("<"):
        return _OPENVINO if "<net " in low else _ONNX_TEXT if "ir_version" in low else _XML
    if low.startswith(("ir_version:", '{"irversion"')):
        return _ONNX_TEXT
    if low.startswith(("{", "[")):
        report = '"version"' in text and '"source"' in text and '"algorithm"' in text
        return _REPORT if report else _MXNET if '"arg_nodes"' in text else _JSON
    return _TEXT


def _model_beside(path: Path) -> Path | None:
    """The model whose external data a file is, by its name."""
    match = _EXTERNAL.fullmatch(path.name)
    if match is not None:
        owner = path.with_name(match[1])
    elif path.suffix.lower() in _EXTERNAL_SUFFIXES:
        owner = path.with_suffix(".onnx")
    else:
        return None
    return owner if owner.is_file() else None


def _folder_hint(path: Path, kind: Kind) -> str:
    """How to export a checkpoint that lies in a folder of its own; which models lie beside a file."""
    folder = path.parent
    if kind in (_TORCH, _SAFETENSORS, _FLAX) and (folder / "config.json").is_file():
        return f" Here: `onnxfq export '{folder}' OUT`."
    if kind in (_JSON, _TEXT, _ORT) and (beside := sorted(folder.glob("*.onnx"))):
        return f" Beside it lies '{beside[0]}'."
    return ""
