"""What transformers.js must find in config.json about single files: which have a data file, what their caches are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from onnxfq.feeds.configurations import CONFIG, read_configuration
from onnxfq.quantization.transformers_folder import NamedModel
from onnxfq.transformers_js import DATA_SUFFIX, ENDS, ONNX_FOLDER, split_stem

_SECTION, _DATA, _CACHES = "transformers.js_config", "use_external_data_format", "kv_cache_dtype"


def tell_transformers_js(result: Path, output: Path, models: Iterable[NamedModel]) -> None:
    """Enter into config.json what it does not say of new models; where it says all, it stays as it is.

    Args:
        result: the folder that is put together, with its models.
        output: where it will be; what is there goes along.
        models: the new ones.
    """
    settings = read_configuration(result if (result / CONFIG).is_file() else output, CONFIG)
    if not settings:
        return
    found = settings.get(_SECTION)
    before: dict[str, object] = dict(found) if isinstance(found, dict) else {}
    section = dict(before)
    for model in models:
        _tell_data(section, model.place.name, output, has_data=(result / f"{model.place}{DATA_SUFFIX}").is_file())
        if model.cache:
            _tell_cache(section, model)
    if section != before:
        text = json.dumps({**settings, _SECTION: section}, indent=2, ensure_ascii=False)
        (result / CONFIG).write_text(text + "\n", encoding="utf-8")


def _tell_data(section: dict[str, object], name: str, output: Path, *, has_data: bool) -> None:
    """Say of a file whether tensors of it are in another: under its name, that of its session, or of all files."""
    found = section.get(_DATA)
    told = _of(found, name, split_stem(Path(name).stem)[0])
    if bool(told) == has_data:
        return
    others = found
    if not isinstance(others, Mapping):  # what held for all is written down for each
        files = (output / ONNX_FOLDER).glob(f"*.onnx{DATA_SUFFIX}")
        others = {file.name.removesuffix(DATA_SUFFIX): 1 for file in sorted(files)} if found else {}
    section[_DATA] = {**others, name: int(has_data)}


def _tell_cache(section: dict[str, object], model: NamedModel) -> None:
    """Say of a data type what its keys and values are, which are float32 where nothing is said."""
    found = section.get(_CACHES)
    if (_of(found, model.dtype) or "float32") == model.cache:
        return
    others = found if isinstance(found, Mapping) else dict.fromkeys(ENDS, found) if found else {}
    section[_CACHES] = {**others, model.dtype: model.cache}


def _of(found: object, *names: str) -> object:
    """What a setting says of one file or type: a value for all, or by name, of which the first counts that is there."""
    if not isinstance(found, Mapping):
        return found
    return next((found[name] for name in names if name in found), None)
