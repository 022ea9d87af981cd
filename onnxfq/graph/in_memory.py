"""Models that are given as objects: written to a file of their own while somebody works with them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

from onnx import ModelProto, TensorProto

from onnxfq.errors import ModelError, OnnxfqError, OutputError, UsageError
from onnxfq.graph.iter_tensors import iter_tensors
from onnxfq.system.terminal import size_text

IN_MEMORY = "in memory"
"""What stands for the path of a model that has none."""
MOST_BYTES = 2**31 - 1  # of a protobuf message
AnyModel: TypeAlias = str | Path | ModelProto


def model_name(model: AnyModel) -> str:
    """What a model is called: its path as the user gave it, or "in memory"."""
    return IN_MEMORY if isinstance(model, ModelProto) else str(model)


@contextmanager
def on_disk(model: AnyModel, setting: str = "model") -> Iterator[Path]:
    """Where a model is while inside: its path, or a temporary file of a model in memory.

    Args:
        model: a path, or an `onnx.ModelProto` that holds all its tensors.
        setting: names the argument, for messages.

    Raises:
        UsageError: it is neither.
        ModelError: a model in memory lacks its data, or is too large to be written as one file.
        OutputError: there is no room for the file.
    """
    if isinstance(model, str | os.PathLike):
        yield Path(model)
        return
    if not isinstance(model, ModelProto):
        raise UsageError(f"`{setting}` must be a path or an onnx.ModelProto (got {type(model).__name__}).")
    _refuse_external(model)
    with TemporaryDirectory(prefix="onnxfq-") as folder:
        path = Path(folder) / "model.onnx"
        _write(model, path)
        try:
            yield path
        except OnnxfqError as error:  # whoever reads it knows nothing of the file
            told = (str(part).replace(f"'{path}'", str(path)).replace(str(path), IN_MEMORY) for part in error.args)
            error.args = tuple(told)
            raise


def _refuse_external(model: ModelProto) -> None:
    for held in iter_tensors(model):
        if held.proto.data_location == TensorProto.EXTERNAL:
            raise ModelError(
                f"The model in memory lacks the data of '{held.proto.name}', which lie in a file beside it. Give the "
                "model's path, or load it with onnx.load(PATH), which reads them."
            )


def _write(model: ModelProto, path: Path) -> None:
    size = model.ByteSize()
    if size > MOST_BYTES:
        raise ModelError(
            f"The model in memory takes {size_text(size)}, more than the 2 GB of one protobuf message. Save it with "
            "onnx.save(MODEL, PATH, save_as_external_data=True), and give that path."
        )
    try:
        path.write_bytes(model.SerializeToString())
    except OSError as error:
        raise OutputError(
            f"Cannot write the model in memory to '{path}' ({error.strerror}): it needs {size_text(size)}. Free some "
            "space, or let TMPDIR name a folder that has it."
        ) from error
