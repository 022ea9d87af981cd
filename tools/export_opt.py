"""Export the trained OPT checkpoint to ONNX with its KV cache, stored in half the bytes.

    pip install torch transformers optimum-onnx
    python tools/export_opt.py checkpoint models/opt-4m

Weights are stored as float16 behind a Cast, so that the model still computes in float32, and the output head is the
embedding, transposed: two of the detours that real exports take.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from optimum.exporters.onnx import main_export

STORED_AS_HALF = 1024  # elements from which a tensor is stored as float16
EMBEDDING = "model.decoder.embed_tokens.weight"


def tie_head(model: onnx.ModelProto) -> None:
    """Replace the head's weight, a transposed copy of the embedding, by a Transpose of the embedding itself."""
    tensors = {t.name: t for t in model.graph.initializer}
    embedding = numpy_helper.to_array(tensors[EMBEDDING])
    for node in model.graph.node:
        if node.op_type != "MatMul" or node.input[1] not in tensors:
            continue
        tensor = tensors[node.input[1]]
        if tuple(tensor.dims) == embedding.shape[::-1] and np.array_equal(numpy_helper.to_array(tensor).T, embedding):
            model.graph.initializer.remove(tensor)
            model.graph.node.insert(0, helper.make_node("Transpose", [EMBEDDING], [tensor.name], perm=[1, 0]))
            return
    raise SystemExit("The head is not a copy of the embedding: is this a tied OPT?")


def store_as_half(model: onnx.ModelProto) -> None:
    """Store large float32 initializers as float16, each behind a Cast that bears the old name."""
    casts = []
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.size >= STORED_AS_HALF:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), f"{name}.half"))
            casts.append(helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    for cast in casts:
        model.graph.node.insert(0, cast)


def main() -> None:
    """Export, shrink, and keep what users of the folder need."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        main_export(str(arguments.checkpoint), folder, task="text-generation-with-past", library_name="transformers")
        model = onnx.load(str(Path(folder) / "model.onnx"))
        tie_head(model)
        store_as_half(model)
        onnx.checker.check_model(model)
        arguments.out.mkdir(parents=True, exist_ok=True)
        onnx.save(model, str(arguments.out / "model.onnx"))
        for path in sorted(Path(folder).glob("*.json")):
            shutil.copyfile(path, arguments.out / path.name)
    shutil.copyfile(arguments.checkpoint / "training.json", arguments.out / "training.json")


if __name__ == "__main__":
    main()
