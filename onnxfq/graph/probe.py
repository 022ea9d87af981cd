"""Models of a single node or a few, to run one kernel by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs
from onnx import ModelProto, NodeProto, TensorShapeProto

from onnxfq.graph.tensors import ONNX_TYPES, tensor_proto

_OPSET, _IR_VERSION = 17, 8
_OPSET_OF_INT4, _IR_OF_INT4 = 21, 10


@dataclass(frozen=True, slots=True)
class Fed:
    """An input of a node that is an input of the model.

    Attributes:
        dtype: its element type.
        shape: numbers, and names for what may differ.
    """

    dtype: npt.DTypeLike
    shape: tuple[int | str, ...]


def single_node(
    op_type: str,
    domain: str,
    inputs: Mapping[str, Fed | npt.NDArray[Any] | None],
    attributes: Mapping[str, Any],
    output: npt.DTypeLike,
) -> bytes:
    """Serialize a model `Y = op_type(*inputs)`.

    Args:
        op_type: the operator.
        domain: its domain.
        inputs: in order, by name: constants, inputs of the model, and None for what is left out.
        attributes: of the node.
        output: element type of Y.
    """
    given = [_input(name, value) for name, value in inputs.items()]
    y = gs.Variable("Y", np.dtype(output), None)
    fed = [value for value, held in zip(given, inputs.values(), strict=True) if isinstance(held, Fed)]
    node = gs.Node(op_type, "node", dict(attributes), given, [y], domain=domain)
    model = gs.export_onnx(gs.Graph([node], fed, [y], opset=_OPSET))
    if domain not in {known.domain for known in model.opset_import}:
        model.opset_import.add(domain=domain, version=1)
    model.ir_version = _IR_VERSION
    return bytes(model.SerializeToString())


def several_nodes(
    nodes: Sequence[NodeProto],
    fed: Mapping[str, Fed],
    constants: Mapping[str, npt.NDArray[Any]],
    output: str,
    opset: int,
) -> bytes:
    """Serialize a model of some nodes.

    Args:
        nodes: in order.
        fed: inputs of the model, by name.
        constants: by name.
        output: the name of what the model returns.
        opset: the version of ONNX's operator set.
    """
    model = ModelProto(ir_version=_IR_OF_INT4 if opset >= _OPSET_OF_INT4 else _IR_VERSION)
    for domain, version in {"": opset, **{node.domain: 1 for node in nodes if node.domain}}.items():
        model.opset_import.add(domain=domain, version=version)
    model.graph.name = "probe"
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(tensor_proto(name, array) for name, array in constants.items())
    for name, value in fed.items():
        tensor = model.graph.input.add(name=name).type.tensor_type
        tensor.elem_type = ONNX_TYPES[np.dtype(value.dtype)]
        tensor.shape.dim.extend(_dimension(size) for size in value.shape)
    model.graph.output.add(name=output)
    return bytes(model.SerializeToString())


def _dimension(size: int | str) -> TensorShapeProto.Dimension:
    return TensorShapeProto.Dimension(**({"dim_value": size} if isinstance(size, int) else {"dim_param": size}))


def _input(name: str, value: Fed | npt.NDArray[Any] | None) -> gs.Tensor:
    if value is None:
        return gs.Variable.empty()
    if isinstance(value, Fed):
        return gs.Variable(name, np.dtype(value.dtype), list(value.shape))
    return gs.Constant(name, value)
