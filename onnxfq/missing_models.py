"""What a path that leads nowhere, or a folder without models, may have been meant for. Imports nothing heavy."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from onnxfq.errors import ModelError

_ADDRESS = re.compile(r"(https?|s3|gs|hf|file|ftp|abfss?):/", re.IGNORECASE)
_HUB_PAGE = re.compile(r"https?:/+(?:www\.)?huggingface\.co/([\w.-]+/[\w.-]+)/?")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SHORT_NAME = re.compile(r"[A-Za-z0-9][\w-]*(\.\d[\w-]*)*")
_CHECKPOINTS = ("*.safetensors", "pytorch_model*.bin", "*.pt", "*.pth", "flax_model*.msgpack")
# What a folder holds → what it is and what to do; {folder} stands for it. The first that fits counts.
_FOLDERS = (
    ("adapter_config.json", "It holds an adapter: merge it into its model (peft's merge_and_unload), and export that."),
    ("saved_model.pb", "Convert it with tf2onnx (`python -m tf2onnx.convert`)."),
    ("Manifest.json", "It is a Core ML package: convert the original model to ONNX."),
    ("openvino_model.xml", "It is an OpenVINO model: export the original checkpoint with `onnxfq export NAME OUT`."),
    ("*.gguf", "It holds models for llama.cpp: export the original checkpoint with `onnxfq export NAME OUT`."),
    ("*.ort", "It holds models in ONNX Runtime's own format: give the ONNX files that they were made from."),
    ("*.tflite", "Convert it with tf2onnx (`python -m tf2onnx.convert`)."),
    ("*.pdmodel", "Convert it with paddle2onnx."),
)  # fmt: skip


def missing(path: Path) -> ModelError:
    """The error for a path that leads nowhere, with what was probably meant."""
    text = str(path)
    if page := _HUB_PAGE.fullmatch(text):
        return _hub(text, page[1])
    if _ADDRESS.match(text):
        return ModelError(f"'{text}' is an address. Download the model (all of its files), and give its path.")
    folder = path.parent
    if _HUB_NAME.fullmatch(text) and path.suffix != ".onnx" and not folder.is_dir():
        return _hub(text, text)
    hint = ""
    if similar := difflib.get_close_matches(path.name, _entries(folder), n=1):
        hint = f" Did you mean '{folder / similar[0]}'?"
    elif not folder.is_dir():
        hint = f" There is no folder '{folder}' either."
    elif _SHORT_NAME.fullmatch(text):
        hint = f" For a model of that name on the Hugging Face hub: `onnxfq export {text} OUT`, then quantize OUT."
    return ModelError(f"No such file: '{path}'. Give the path of an ONNX file, or of a folder with some.{hint}")


def _hub(text: str, name: str) -> ModelError:
    return ModelError(
        f"There is no file or folder '{text}'. It looks like a name on the Hugging Face hub: "
        f"`onnxfq export {name} OUT` makes ONNX files of that model, then quantize OUT."
    )


def _entries(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir() if entry.suffix == ".onnx" or entry.is_dir()]
    except OSError:
        return []


def no_models(folder: Path) -> ModelError:
    """The error for a folder without ONNX files, with what it holds instead."""
    return ModelError(f"No ONNX model in '{folder}' (wanted *.onnx). {_instead(folder)}")


def _instead(folder: Path) -> str:
    if below := next(folder.glob("*/*.onnx"), None):
        return f"There is '{below}': give the folder '{below.parent}'."
    for pattern, remedy in _FOLDERS:
        if next(folder.glob(pattern), None):
            return remedy.replace("{folder}", str(folder))
    if any(next(folder.glob(pattern), None) for pattern in _CHECKPOINTS):
        return f"It holds a checkpoint: `onnxfq export '{folder}' OUT` makes ONNX files of it, then quantize OUT."
    return "Export one there, or name the file."
