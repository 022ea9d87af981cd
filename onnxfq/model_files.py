"""Which files a path stands for: one model, a folder of models, or an encoder and a decoder."""

from __future__ import annotations

import os
from pathlib import Path

from onnxfq.errors import ModelError
from onnxfq.foreign_files import refuse_foreign
from onnxfq.missing_models import missing, no_models

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
        raise no_models(folder)
    return models


def check_models(path: Path) -> None:
    """Refuse, before anything heavy is imported, a path that leads to no model, or to what only looks like one.

    Raises:
        ModelError: there is nothing, or something else.
    """
    if is_folder(path):
        for model in models_of(path):
            refuse_foreign(model)
    elif not _leads_somewhere(path):
        raise missing(path)
    else:
        refuse_foreign(path)


def _leads_somewhere(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except (OSError, ValueError):  # something is in the way; whoever reads the model says what
        return True
    return True


def output_of(source: Path, output: str | Path | None, bits: int) -> Path:
    """What is written: beside the source where nothing is said, and into a folder that is named for a single file.

    Args:
        source: the model, or a folder of models.
        output: as the user named it; a slash behind it makes it a folder, as being one does.
        bits: of the weights, part of the name.
    """
    if is_folder(source):
        whole = source.resolve()
        return whole.with_name(f"{whole.name}-int{bits}") if output is None else Path(output)
    name = f"{source.stem}.int{bits}{MODEL_SUFFIX}"
    if output is None:
        return source.with_name(name)
    return Path(output) / name if _has_slash(output) or is_folder(Path(output)) else Path(output)


def makes_folder(source: Path, output: str | Path | None) -> bool:
    """Whether the folder of the output is to be made: a single file, and a slash behind the name."""
    return output is not None and not is_folder(source) and _has_slash(output)


def _has_slash(output: str | Path) -> bool:
    return str(output).endswith(("/", os.sep))


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
