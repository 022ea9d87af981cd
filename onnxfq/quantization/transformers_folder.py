"""A folder as transformers.js loads it: settings at the top, models in `onnx`, several data types side by side."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxfq.errors import UsageError
from onnxfq.feeds import with_configured_sizes
from onnxfq.feeds.configurations import CONFIG, read_configuration
from onnxfq.feeds.names import role
from onnxfq.graph import float_type, set_named_sizes
from onnxfq.model_files import is_folder, model_home
from onnxfq.quantization.folder import copy_companions
from onnxfq.quantization.job import Job
from onnxfq.transformers_js import (
    DATA_SUFFIX,
    ONNX_FOLDER,
    TRANSFORMERS_JS,
    choose_dtype,
    file_name,
    float_dtype,
)

# What lies beside one model, and is copied where that alone is quantized.
_SETTINGS = (
    CONFIG, "generation_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
    "chat_template.jinja", "chat_template.json",
)  # fmt: skip
_CACHE_AXES = 4  # [batch, heads, tokens, head size]
_LARGEST_PIECE = 1 << 31  # bytes that a browser holds in one piece


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model that will be written.

    Attributes:
        dtype: transformers.js's name of what it becomes.
        place: where it goes, in the folder.
        cache: the type of the keys and values that it takes; "" where it takes none.
    """

    dtype: str
    place: Path
    cache: str


def name_models(jobs: Sequence[Job]) -> dict[Path, NamedModel]:
    """What each model becomes, by its file in the source.

    Raises:
        ModelError: transformers.js has no name for a source's type.
        UsageError: none for what it becomes, what was asked for is something else, or two become the same file.
    """
    named = {job.graph.path: _named(job) for job in jobs}
    places = [str(model.place) for model in named.values()]
    if twice := next((place for place in places if places.count(place) > 1), None):
        same = " and ".join(f"'{path}'" for path, model in named.items() if str(model.place) == twice)
        raise UsageError(f"{same} would both become '{twice}'. Give one of them alone.")
    return named


def _named(job: Job) -> NamedModel:
    path, weights, scheme = job.graph.path, float_type(job.graph), job.options.scheme
    if job.planned:
        integers = scheme.format == "int8"
        dtype = choose_dtype(job.options.layout, bits=scheme.bits, integers=integers, weights=weights, model=path)
    else:  # it goes along as it is
        dtype = float_dtype(weights, path)
    cache = next((spec.dtype for spec in job.graph.signature.inputs if role(spec) == "cache"), "")
    return NamedModel(dtype, Path(ONNX_FOLDER, file_name(path, dtype)), cache)


def fix_cache_sizes(job: Job) -> None:
    """Write numbers and sizes of heads into a model that leaves them open: its caches start empty by its own shapes.

    transformers.js takes a size that has a name for the batch, or for 0.
    """
    sizes: dict[str, int] = {}
    for spec in with_configured_sizes(job.graph.signature, job.graph.path).inputs:
        shape = spec.shape or ()
        if role(spec) == "cache" and len(shape) == len(spec.fitting) == _CACHE_AXES:
            known = ((shape[axis], spec.fitting[axis]) for axis in (1, 3))
            sizes |= {name: size for name, size in known if isinstance(name, str) and size is not None}
    set_named_sizes(job.graph, sizes)


def copy_settings(source: Path, result: Path, used: Iterable[Path]) -> list[str]:
    """Copy what lies beside the models of a source: of a folder everything but weights, of a file what has known names.

    Args:
        source: the file or folder.
        result: where to copy to; created, with a folder for models in it.
        used: files that belong to the models.

    Returns:
        Names of the weights that were left out.

    Raises:
        ModelError: a symbolic link leads out of the folder.
    """
    home, left = model_home(source.resolve()), list[str]()
    if is_folder(source):
        left = copy_companions(home, result, used)
    else:
        result.mkdir()
        for name in _SETTINGS:
            if (home / name).is_file():
                shutil.copyfile(home / name, result / name)
    (result / ONNX_FOLDER).mkdir(exist_ok=True)
    return left


def holds_models(output: Path) -> bool:
    """Whether there is such a folder already, to which models can be added."""
    return is_folder(output) and (is_folder(output / ONNX_FOLDER) or (output / CONFIG).is_file())


def refuse_another(result: Path, output: Path) -> None:
    """Refuse to add to the folder of another model: one whose configuration has another type or other sizes.

    Raises:
        UsageError: it is.
        DataError: a configuration cannot be read.
    """
    ours, theirs = (_telling(read_configuration(folder, CONFIG)) for folder in (result, output))
    other = [name for name in ours if name in theirs and ours[name] != theirs[name]]
    if other:
        raise UsageError(
            f"'{output}' holds another model (its {CONFIG} has {other[0]} {theirs[other[0]]}; got {ours[other[0]]} in "
            "the source's). Choose another `output`, or remove it first."
        )


def _telling(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What is the same of a model in all its data types."""
    return {name: value for name, value in settings.items() if name == "model_type" or type(value) is int}


def keep_theirs(result: Path, output: Path) -> None:
    """Of settings that both have, what is there already stays: drop ours."""
    for path in result.rglob("*"):
        if path.is_file() and os.path.lexists(output / path.relative_to(result)):
            path.unlink()


def take_along(output: Path, result: Path, models: Iterable[NamedModel]) -> None:
    """Put what a folder holds already into its successor: the same files, by another link to each.

    Args:
        output: the folder, which stays as it is.
        result: what takes its place; what is in it is newer.
        models: the new ones, whose old data files go.
    """
    old = {f"{model.place}{DATA_SUFFIX}" for model in models}
    for path in sorted(output.rglob("*")):
        name = path.relative_to(output)
        place = result / name
        if os.path.lexists(place) or str(name) in old:
            continue
        if path.is_symlink():
            place.symlink_to(path.readlink())
        elif path.is_dir():
            place.mkdir()
        else:
            _link(path, place)


def _link(path: Path, place: Path) -> None:
    try:
        place.hardlink_to(path)
    except OSError:  # not on every file system
        shutil.copy2(path, place)


def notes_on(result: Path, output: Path, models: Iterable[NamedModel]) -> tuple[str, ...]:
    """What keeps transformers.js from loading a folder that was written."""
    notes = []
    if not any((folder / CONFIG).is_file() for folder in (result, output)):
        notes.append(f"{TRANSFORMERS_JS} needs {CONFIG}, which was not beside the source: put it into '{output}'.")
    for model in models:
        data = result / f"{model.place}{DATA_SUFFIX}"
        if data.is_file() and data.stat().st_size >= _LARGEST_PIECE:
            notes.append(
                f"'{output / model.place}{DATA_SUFFIX}' has more than 2 GiB, which browsers do not hold in one piece: "
                "it loads in Node.js."
            )
    return tuple(notes)
