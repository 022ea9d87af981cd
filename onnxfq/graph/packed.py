"""Tensors of integers of 2 or 4 bits, which numpy has no arrays for, as they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from onnx import TensorProto

from onnxfq.arrays import Array, Uint8Array
from onnxfq.errors import ModelError
from onnxfq.graph.bodies import Body
from onnxfq.graph.constants import NotConstant, resolve
from onnxfq.graph.external_data import Scratch
from onnxfq.graph.tensors import Tensor, bit_width, tensor_header, tensor_proto, type_name

_BYTE = 8


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A tensor of such integers.

    Attributes:
        type: ONNX's name, "int4", "uint4", "int2" or "uint2".
        shape: dimensions.
        data: all elements one after the other, the first in a byte's lowest bits; the last byte is filled up with 0.
    """

    type: str
    shape: tuple[int, ...]
    data: Uint8Array

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.data.nbytes


StoredArray: TypeAlias = Array | Packed


def new_tensor(name: str, parts: Sequence[StoredArray], *, with_values: bool) -> TensorProto:
    """A tensor message, with values inside or without; `parts` are an array's rows, or what is packed, whole."""
    first = parts[0]
    if isinstance(first, Packed):
        number = TensorProto.DataType.Value(first.type.upper())
        proto = TensorProto(name=name, data_type=number, dims=first.shape)
        if with_values:
            proto.raw_data = first.data.tobytes()
        return proto
    arrays = [part for part in parts if not isinstance(part, Packed)]
    if with_values:
        return tensor_proto(name, np.concatenate(arrays) if len(arrays) > 1 else first)
    return tensor_header(name, first.dtype, (sum(map(len, arrays)), *first.shape[1:]))


def read_constant(body: Body, name: str, model: Path, scratch: Scratch | None = None) -> StoredArray:
    """Read a constant that a node of a scope names, through its chain of nodes; what is packed as it is stored.

    Args:
        body: the scope.
        name: what the node reads.
        model: the model's path.
        scratch: to read into, if given.

    Raises:
        ModelError: it is not constant, or cannot be read.
    """
    value = resolve(body, name, model, overridable=False)
    if isinstance(value, NotConstant):
        raise ModelError(f"'{name}' in '{model}' is not constant ({value.reason}).")
    stored = _read_stored(value.leaf, scratch)
    return stored if isinstance(stored, Packed) else np.asarray(value.way.apply(stored))


def _read_stored(tensor: Tensor, scratch: Scratch | None = None) -> StoredArray:
    """A tensor's elements as they are stored; into `scratch` if given."""
    if not 0 < bit_width(tensor.type) < _BYTE:
        return tensor.read(scratch)
    if tensor.piece is not None:
        data = tensor.piece.read(scratch)
    elif tensor.proto.HasField("raw_data"):
        data = np.frombuffer(tensor.proto.raw_data, np.uint8)
    else:
        raise ModelError(f"Tensor '{tensor.name}' of type {type_name(tensor.type)} is not stored raw.")
    return Packed(type_name(tensor.type), tensor.shape, data)
