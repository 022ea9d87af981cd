"""The configuration files beside a model: read defensively, for anybody may have written them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from onnxfq.errors import DataError
from onnxfq.transformers_js import ONNX_FOLDER

Settings = Mapping[str, object]

CONFIG, GENAI_CONFIG = "config.json", "genai_config.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
UNLIMITED = 10**6  # tokenizers without a limit say 10**30
_MOST_BYTES = 1 << 26  # of a configuration; nobody writes one of 64 MB
_LIMITS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (TOKENIZER_CONFIG, ("model_max_length",)),
    (CONFIG, ("max_position_embeddings",)),
    (CONFIG, ("n_positions",)),
    (CONFIG, ("max_target_positions",)),
    (CONFIG, ("text_config", "max_position_embeddings")),
    (CONFIG, ("decoder", "max_position_embeddings")),
    (GENAI_CONFIG, ("model", "context_length")),
)


def settings_folder(model: Path, file: str) -> Path:
    """The folder in which a file lies that belongs to a model.

    The model's own, or, where it lies in a folder `onnx` as on the hub and the file is not in that, the one above.

    Args:
        model: a file, or a folder.
        file: the name of what belongs to it.
    """
    own = model if model.is_dir() else model.parent
    above = own.resolve().parent
    is_above = own.resolve().name == ONNX_FOLDER and not (own / file).is_file() and (above / file).is_file()
    return above if is_above else own


def read_configuration(path: Path, file: str) -> Settings:
    """The settings of a configuration file; none where it is not there.

    Args:
        path: a model, or the folder that it lies in; see `settings_folder`.
        file: its name.

    Raises:
        DataError: it is no JSON.
    """
    source = settings_folder(path, file) / file
    try:
        if not source.is_file() or source.stat().st_size > _MOST_BYTES:  # a device never ends
            return {}
        settings = json.loads(source.read_text(encoding="utf-8"))
    except OSError:
        return {}
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source} cannot be read as JSON: {error}. Repair or remove it.") from error
    return settings if isinstance(settings, dict) else {}


def read_setting(path: Path, file: str, *keys: str) -> object:
    """One setting from a configuration file, at a path of keys; None where there is none."""
    found: object = read_configuration(path, file)
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def longest(path: Path | None) -> int | None:
    """The longest input in tokens that the configurations beside a tokenizer allow; None where they say nothing."""
    settings = [read_setting(path, file, *keys) for file, keys in _LIMITS] if path else []
    limits = [setting for setting in settings if isinstance(setting, int | float) and not isinstance(setting, bool)]
    return min((int(limit) for limit in limits if 1 <= limit < UNLIMITED), default=None)
