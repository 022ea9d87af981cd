"""A model in another floating-point type, tensor by tensor, so that only the largest is ever in memory.

`write_float32` makes a model store and compute everything in float32 that was in float16. `write_half` stores the
weights of a float32 model as float16, each behind a Cast: ONNX Runtime on a CPU computes float16 in float32 anyhow.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

HALF, SINGLE = TensorProto.FLOAT16, TensorProto.FLOAT
INLINE_BYTES = 1024  # smaller tensors stay in the model file


def read(source: Path) -> ModelProto:
    """A model without the contents of external tensors."""
    return onnx.load(str(source), load_external_data=False)


def computes_in_half(model: ModelProto) -> bool:
    """Whether a weight is multiplied as float16, not only stored so behind a Cast."""
    return any(
        tensor.data_type == HALF and any(tensor.name in node.input[1:] for node in graph.node)
        for graph in graphs(model.graph)
        for tensor in graph.initializer
    )


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and all inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.type in _GRAPHS else ():
                yield from graphs(inner)


def write_float32(source: Path, target: Path) -> None:
    """Write a model with float32 wherever it has float16."""
    model = read(source)
    with _data_file(target) as file:
        for graph in graphs(model.graph):
            for tensor in graph.initializer:
                array = numpy_helper.to_array(tensor, str(source.parent))
                _store(tensor, array.astype(np.float32) if tensor.data_type == HALF else array, file)
            for value in (*graph.input, *graph.output, *graph.value_info):
                _widen_value(value)
            for node in graph.node:
                _widen_node(node)
    onnx.save(model, str(target))


def write_half(source: Path, target: Path) -> None:
    """Write a model whose float32 tensors of some size are stored as float16, each behind a Cast with its name."""
    model = read(source)
    casts = []
    with _data_file(target) as file:
        for tensor in model.graph.initializer:
            array = numpy_helper.to_array(tensor, str(source.parent))
            if tensor.data_type == SINGLE and array.nbytes >= INLINE_BYTES:
                stored = f"{tensor.name}.half"
                casts.append(helper.make_node("Cast", [stored], [tensor.name], to=SINGLE))
                tensor.name, array = stored, array.astype(np.float16)
            _store(tensor, array, file)
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, str(target))


_GRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


def _data_file(target: Path) -> BinaryIO:
    return target.with_name(f"{target.name}_data").open("wb")


def _store(tensor: TensorProto, array: npt.NDArray[np.generic], file: BinaryIO) -> None:
    """Give a tensor new contents, in the data file unless they are few."""
    name = tensor.name
    if array.nbytes < INLINE_BYTES:
        tensor.CopyFrom(numpy_helper.from_array(array, name))
        return
    tensor.Clear()
    tensor.name, tensor.data_location = name, TensorProto.EXTERNAL
    tensor.data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor.dims.extend(array.shape)
    file.seek(-(-file.tell() // 64) * 64)
    place = {"location": Path(file.name).name, "offset": file.tell(), "length": array.nbytes}
    for key, value in place.items():
        tensor.external_data.add(key=key, value=str(value))
    file.write(np.ascontiguousarray(array).tobytes())


def _widen_value(value: ValueInfoProto) -> None:
    if value.type.tensor_type.elem_type == HALF:
        value.type.tensor_type.elem_type = SINGLE


def _widen_node(node: NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i == HALF:
            attribute.i = SINGLE
        elif attribute.type == AttributeProto.TENSOR and attribute.t.data_type == HALF:
            array = numpy_helper.to_array(attribute.t).astype(np.float32)
            attribute.t.CopyFrom(numpy_helper.from_array(array, attribute.t.name))
