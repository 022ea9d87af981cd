"""Large float models of no meaning, written as a stream: residual pairs of MatMuls with heavy-tailed weights."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

PAGE = 4096


def write_stack(path: Path, *, layers: int, width: int, inner: int, seed: int = 0) -> None:
    """Write `layers` times x ← x + relu(x · W1) · W2, [width, inner] and [inner, width], as float32 external data."""
    rng = np.random.default_rng(seed)
    nodes, tensors, value = [], [], "x"
    with (path.parent / (path.name + "_data")).open("wb") as data:
        for layer in range(layers):
            names = [f"layers.{layer}.{part}" for part in ("up", "hidden", "down", "out")]
            tensors.append(_tensor(f"{names[0]}.weight", (width, inner), data, path, rng))
            tensors.append(_tensor(f"{names[2]}.weight", (inner, width), data, path, rng))
            nodes += [
                helper.make_node("MatMul", [value, f"{names[0]}.weight"], [names[0]], name=f"/{names[0]}/MatMul"),
                helper.make_node("Relu", [names[0]], [names[1]], name=f"/{names[1]}/Relu"),
                helper.make_node("MatMul", [names[1], f"{names[2]}.weight"], [names[2]], name=f"/{names[2]}/MatMul"),
                helper.make_node("Add", [value, names[2]], [names[3]], name=f"/{names[3]}/Add"),
            ]
            value = names[3]
    graph = helper.make_graph(
        nodes,
        "stack",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", width])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["rows", width])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def _tensor(name: str, shape: tuple[int, int], data: object, path: Path, rng: np.random.Generator) -> TensorProto:
    """Write normal weights, one in a thousand of them tenfold, row by row of 1024."""
    offset = -(-data.tell() // PAGE) * PAGE  # type: ignore[attr-defined]
    data.seek(offset)  # type: ignore[attr-defined]
    deviation = np.float32(0.5 / np.sqrt(shape[0]))
    for start in range(0, shape[0], 1024):
        rows = rng.standard_normal((min(1024, shape[0] - start), shape[1]), dtype=np.float32) * deviation
        rows[rng.random(rows.shape, dtype=np.float32) < 1e-3] *= 10
        data.write(rows.data)  # type: ignore[attr-defined]
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    length = 4 * shape[0] * shape[1]
    for key, value in (("location", path.name + "_data"), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def main() -> None:
    """Write one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--inner", type=int, default=16384)
    arguments = parser.parse_args()
    arguments.path.parent.mkdir(parents=True, exist_ok=True)
    write_stack(arguments.path, layers=arguments.layers, width=arguments.width, inner=arguments.inner)
    onnx.checker.check_model(str(arguments.path))


if __name__ == "__main__":
    main()
