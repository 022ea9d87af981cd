"""What a model's bytes are: codes, scales and zero points of quantized weights, and what stays in floating point."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from onnx import GraphProto, NodeProto, TensorProto, helper

from benchmarks.precision import graphs, read

KINDS = ("codes", "scales", "zero points", "embedding", "weights", "norms, biases and constants", "nodes and names")
_PACKED = {  # inputs of operators with quantized weights
    "MatMulNBits": {1: "codes", 2: "scales", 3: "zero points"},
    "GatherBlockQuantized": {0: "codes", 2: "scales", 3: "zero points"},
}
_DETOURS = ("Cast", "Transpose", "Identity", "Reshape")


def contents(path: Path, file_bytes: int) -> dict[str, Any]:
    """Bytes by kind, and the quantized weights.

    Args:
        path: the model.
        file_bytes: of all its files.

    Returns:
        `bytes` by kind: "embedding" are tables of which rows are looked up, "weights" factors of MatMul and Gemm in
        floating point; they add up to `file_bytes`. `quantized_weights`: how many, those that nodes share counted once;
        `bits_a_weight`: what each takes.
    """
    model = read(path)
    found = dict.fromkeys(KINDS, 0)
    weights = 0
    for graph in graphs(model.graph):
        for tensor in graph.initializer:
            kind = _kind(tensor.name, graph)
            found[kind] += _nbytes(tensor)
            if kind == "codes":
                weights += _weights(tensor, next(_readers(tensor.name, graph))[0])
    found["nodes and names"] = file_bytes - sum(found.values())
    packed = sum(found[kind] for kind in ("codes", "scales", "zero points"))
    bits = round(8 * packed / weights, 3) if weights else None
    return {"bytes": found, "quantized_weights": weights, "bits_a_weight": bits}


def _kind(name: str, graph: GraphProto) -> str:
    """What a tensor is to the nodes that read it; one that is both looked up in and multiplied with is an embedding."""
    kinds = {kind for node, index in _readers(name, graph) if (kind := _use(node, index))}
    return next((kind for kind in KINDS if kind in kinds), "norms, biases and constants")


def _readers(name: str, graph: GraphProto) -> Iterator[tuple[NodeProto, int]]:
    for node in graph.node:
        if name not in node.input:
            continue
        if node.op_type in _DETOURS and node.input[0] == name:
            yield from _readers(node.output[0], graph)
        else:
            yield node, list(node.input).index(name)


def _use(node: NodeProto, index: int) -> str | None:
    if node.op_type in _PACKED:
        return _PACKED[node.op_type].get(index)
    if node.op_type == "Gather" and index == 0:
        return "embedding"
    return "weights" if node.op_type in ("MatMul", "Gemm") and index < 2 else None


def _weights(codes: TensorProto, node: NodeProto) -> int:
    """How many weights there are codes of: of a MatMulNBits less than fit in, where its last block is padded."""
    sizes = {a.name: a.i for a in node.attribute}
    return int(sizes["K"] * sizes["N"]) if "K" in sizes else 8 * _nbytes(codes) // int(sizes["bits"])


def _nbytes(tensor: TensorProto) -> int:
    return int(prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
