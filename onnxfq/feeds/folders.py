"""Samples from folders of arrays: files of samples, a file or a folder for each input, or a file for each sample."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from onnxfq.errors import DataError
from onnxfq.feeds.arrays_by_name import cut
from onnxfq.feeds.feed import Feed
from onnxfq.feeds.npz import is_one_sample, read_npz
from onnxfq.input_files import ARRAY_FILES, listed
from onnxfq.signature import Signature
from onnxfq.system.archive import open_array

_ONE = ".npy"  # the file of a single array


def read_folder(path: Path, signature: Signature) -> Iterator[tuple[Feed, str]]:
    """Samples of all files; where one can only be a whole sample, each of them is one.

    Files of single arrays that are named after inputs are these inputs, and folders that are hold one file for each
    sample: `input_ids.npy`, `attention_mask.npy`; or `input_ids/0.npy`, `attention_mask/0.npy`.

    Args:
        path: the folder.
        signature: the model's inputs.

    Raises:
        DataError: it holds no arrays, or such that do not fit the model.
    """
    files = _arrays_in(path)
    if not files:
        return _read_by_input(_folders_of_inputs(path, signature), path)
    if all(file.suffix.lower() == _ONE and file.stem in signature.feedable for file in files):
        return _read_columns(files, signature, path)
    whole = any(is_one_sample(file, signature) for file in files)
    return itertools.chain.from_iterable(read_npz(file, signature, whole=whole) for file in files)


def _arrays_in(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if file.suffix.lower() in ARRAY_FILES and file.is_file())


def _read_columns(files: Sequence[Path], signature: Signature, folder: Path) -> Iterator[tuple[Feed, str]]:
    """Samples from one file for each input."""
    with ExitStack() as opened:
        arrays = {file.stem: opened.enter_context(open_array(file)) for file in files}
        yield from cut(arrays, signature, folder.name)


def _folders_of_inputs(path: Path, signature: Signature) -> dict[str, list[Path]]:
    """The files of each input that a folder is named after.

    Raises:
        DataError: there is no such folder, or not only such.
    """
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    found = {folder.name: _arrays_in(folder) for folder in folders if folder.name in signature.feedable}
    if not any(found.values()):
        raise DataError(
            f"There are no {listed(ARRAY_FILES)} files in the folder {path}, nor in folders in it that are named after "
            f"inputs ({', '.join(signature.feedable)}). Give a folder that holds some."
        )
    return found


def _read_by_input(found: Mapping[str, Sequence[Path]], path: Path) -> Iterator[tuple[Feed, str]]:
    """Samples from one folder for each input, in which files of the same name belong together.

    Raises:
        DataError: a sample lacks a file.
    """
    names = {name: [file.name for file in files] for name, files in found.items()}
    first = next(iter(names.values()))
    if any(other != first for other in names.values()):
        everywhere = set.intersection(*(set(other) for other in names.values()))
        odd = sorted({file for other in names.values() for file in other} - everywhere)
        listed_odd = ", ".join(odd[:3]) + (", …" if len(odd) > 3 else "")
        raise DataError(
            f"The folders in {path} hold files of different names, so that samples are not complete (got {listed_odd} "
            f"in some of {', '.join(names)}, and not in all). Give one file of the same name in each."
        )
    for number, name in enumerate(first):
        where = f"{name} in {path.name}"
        feed: Feed = {}
        for key, files in found.items():
            with open_array(files[number]) as array:
                feed[key] = array.all()
        yield feed, where
