"""Which files a path stands for: one model, a folder of models, or an encoder and a decoder."""

from __future__ import annotations

import os
from pathlib import Path

from onnxfq.errors import ModelError
from onnxfq.foreign_files import refuse_foreign
from onnxfq.missing_models import missing, no_models
from onnxfq.transformers_js import OF_THE_SOURCE, ONNX_FOLDER, TRANSFORMERS_JS, float_models, is_transformers_js

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


def models_to_write(path: Path, layout: str = OF_THE_SOURCE) -> list[Path]:
    """The ONNX files that a source consists of: one, or those of a folder.

    Args:
        path: the source.
        layout: of the output. For transformers.js, a folder's models may be in a folder `onnx` in it, and those that
            by their names are quantized, or that it does not load, are none.

    Raises:
        ModelError: a folder has none.
    """
    if not is_folder(path):
        return [path]
    if not is_transformers_js(layout):
        return models_of(path)
    at_top = next(path.glob(f"*{MODEL_SUFFIX}"), None) is not None
    return float_models(models_of(path if at_top or not is_folder(path / ONNX_FOLDER) else path / ONNX_FOLDER))


def check_models(path: Path, layout: str = OF_THE_SOURCE) -> None:
    """Refuse, before anything heavy is imported, a path that leads to no model, or to what only looks like one.

    Args:
        path: a file or a folder.
        layout: of the output, on which it depends which files of a folder count.

    Raises:
        ModelError: there is nothing, or something else.
    """
    if is_folder(path):
        for model in models_to_write(path, layout):
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


def output_of(source: Path, output: str | Path | None, bits: int | None, layout: str = OF_THE_SOURCE) -> Path:
    """What is written: beside the source where nothing is said, and into a folder that is named for a single file.

    Args:
        source: the model, or a folder of models.
        output: as the user named it; a slash behind it makes it a folder, as being one does.
        bits: of the weights, part of the name; None where each has its own.
        layout: of the output; for transformers.js it is a folder, whose name says nothing of bits: files do.
    """
    kind = "mixed" if bits is None else f"int{bits}"
    if is_transformers_js(layout):
        whole = model_home(source.resolve())
        return whole.with_name(f"{whole.name}-{TRANSFORMERS_JS}") if output is None else Path(output)
    if is_folder(source):
        whole = source.resolve()
        return whole.with_name(f"{whole.name}-{kind}") if output is None else Path(output)
    name = f"{source.stem}.{kind}{MODEL_SUFFIX}"
    if output is None:
        return source.with_name(name)
    return Path(output) / name if _has_slash(output) or is_folder(Path(output)) else Path(output)


def model_home(path: Path) -> Path:
    """The folder in which a model's configuration lies: its own, or one above where that is named `onnx`."""
    folder = path if is_folder(path) else path.parent
    return folder.parent if folder.name == ONNX_FOLDER else folder


def makes_folder(source: Path, output: str | Path | None, layout: str = OF_THE_SOURCE) -> bool:
    """Whether the folder of the output is to be made: a single file, and a slash behind the name."""
    return output is not None and not is_transformers_js(layout) and not is_folder(source) and _has_slash(output)


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
