"""Which files a path stands for: one model, a folder of models, or an encoder and a decoder."""

from __future__ import annotations

from pathlib import Path

from onnxfq.errors import ModelError

MODEL_SUFFIX = ".onnx"
ENCODER, DECODER, MERGED = "encoder_model.onnx", "decoder_model.onnx", "decoder_model_merged.onnx"
_PREFERRED = ("model.onnx", MERGED, DECODER)


def is_folder(path: Path) -> bool:
    """Whether a source is a folder; what cannot even be looked at is not, and fails when it is read."""
    try:
        return path.is_dir()
    except OSError:
        return False


def models_of(folder: Path) -> list[Path]:
    """The ONNX files of a folder.

    Raises:
        ModelError: there are none.
    """
    models = sorted(path for path in folder.glob(f"*{MODEL_SUFFIX}") if path.is_file())
    if not models:
        below = next(folder.glob(f"*/*{MODEL_SUFFIX}"), None)
        hint = f" There is '{below}': give the folder '{below.parent}'." if below else ""
        raise ModelError(f"No ONNX model in '{folder}' (wanted *.onnx). Export one there, or name the file.{hint}")
    return models


def is_encoder_decoder(folder: Path) -> bool:
    """Whether a folder holds an encoder and a decoder."""
    return (folder / ENCODER).is_file() and any((folder / name).is_file() for name in (MERGED, DECODER))


def find_model(path: Path) -> Path:
    """The file that a path means, or the folder itself where it holds an encoder and a decoder.

    Raises:
        ModelError: a folder holds no model, or several without saying which is meant.
    """
    if not is_folder(path) or is_encoder_decoder(path):
        return path
    models = {model.name: model for model in models_of(path)}
    if len(models) == 1:
        return next(iter(models.values()))
    preferred = [models[name] for name in _PREFERRED if name in models]
    if not preferred:
        raise ModelError(
            f"'{path}' holds several models and none is named model.onnx (got {', '.join(models)}). Name one of them."
        )
    return preferred[0]
