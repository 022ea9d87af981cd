"""Constant tensors of a model: where their bytes are, and how to read them, without holding them."""

from __future__ import annotations

import math
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from onnxfq.errors import ModelError
from onnxfq.graph.bodies import MOST_DIMENSIONS
from onnxfq.graph.external_data import FileSlice, Scratch, check_slice, external_file
from onnxfq.graph.wire import SELF, reference

NUMPY_TYPES: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.UINT8: np.dtype(np.uint8),
    TensorProto.INT8: np.dtype(np.int8),
    TensorProto.UINT16: np.dtype(np.uint16),
    TensorProto.INT16: np.dtype(np.int16),
    TensorProto.INT32: np.dtype(np.int32),
    TensorProto.INT64: np.dtype(np.int64),
    TensorProto.BOOL: np.dtype(np.bool_),
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.DOUBLE: np.dtype(np.float64),
    TensorProto.UINT32: np.dtype(np.uint32),
    TensorProto.UINT64: np.dtype(np.uint64),
    TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}
ONNX_TYPES = {dtype: number for number, dtype in NUMPY_TYPES.items()}
NEW = (
    f"\0new:{secrets.token_hex(16)}"  # location of tensors that are new in this run, in the tensor file; see wire.SELF
)
_MOST_ELEMENTS = 1 << 50
_VALUE_FIELDS = (
    *("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data"),
    *("external_data", "data_location"),
)
_TYPED_FIELDS = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT64: "uint64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.STRING: "string_data",
}


def type_name(number: int) -> str:
    """A readable name of an ONNX element type: numpy's where there is one."""
    if number in NUMPY_TYPES:
        return NUMPY_TYPES[number].name
    return str(TensorProto.DataType.Name(number)).lower() if number in TensorProto.DataType.values() else "unknown"


def bit_width(number: int) -> int:
    """Bits of one element; 0 for strings and unknown types."""
    if number in NUMPY_TYPES:
        return NUMPY_TYPES[number].itemsize * 8
    name = type_name(number)
    if name in ("uint4", "int4", "float4e2m1"):
        return 4
    if name in ("uint2", "int2"):
        return 2
    return 8 if name.startswith("float8") else {"complex64": 64, "complex128": 128}.get(name, 0)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One constant tensor, still on disk unless it is small.

    Attributes:
        name: of the initializer, or of the Constant node's output.
        shape: dimensions.
        type: ONNX element type number.
        piece: where the bytes are, for tensors in files; None for small inline ones.
        proto: the message itself.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    piece: FileSlice | None
    proto: TensorProto = field(compare=False, repr=False)

    @property
    def nbytes(self) -> int:
        """Size in bytes, as stored raw."""
        return self.piece.length if self.piece else (math.prod(self.shape) * bit_width(self.type) + 7) // 8

    def read(self, scratch: Scratch | None = None) -> npt.NDArray[Any]:
        """Load the values, in the tensor's own type; into `scratch`, which then holds them until its next use.

        Raises:
            ModelError: an element type that numpy has no array for, or damaged data.
        """
        if self.type not in NUMPY_TYPES:
            raise ModelError(f"Tensor '{self.name}' has elements of type {type_name(self.type)}, which is not read.")
        dtype = NUMPY_TYPES[self.type]
        if self.piece is not None:
            return np.frombuffer(self.piece.read(scratch), dtype).reshape(self.shape)
        try:
            return np.asarray(onnx.numpy_helper.to_array(self.proto)).astype(dtype, copy=False)
        except (ValueError, TypeError, OverflowError) as error:
            raise ModelError(f"Tensor '{self.name}' is damaged: {error}.") from error


def read_header(proto: TensorProto, model: Path, name: str | None = None) -> Tensor:
    """Locate a tensor's bytes and check them against its shape.

    Args:
        proto: the tensor.
        model: the model's path, which external locations are relative to.
        name: what to call it, where the proto has no name of its own (Constant nodes).

    Raises:
        ModelError: impossible shape, data missing, too short, or outside the model's folder.
    """
    label = name or proto.name
    shape = _shape(proto, label)
    if proto.data_location != TensorProto.EXTERNAL:
        _check_inline(proto, label)
        return Tensor(label, shape, proto.data_type, None, proto)
    if proto.data_type == TensorProto.STRING:
        raise ModelError(f"Tensor '{label}' has strings as external data, which ONNX does not allow.")
    if proto.HasField("raw_data"):
        raise ModelError(f"Tensor '{label}' is stored both inline and as external data. The model is damaged.")
    return Tensor(label, shape, proto.data_type, _locate(proto, model, label), proto)


def _shape(proto: TensorProto, label: str) -> tuple[int, ...]:
    """The dimensions, if there can be such a tensor."""
    count = len(proto.dims)
    if count > MOST_DIMENSIONS:  # the product of so many could take hours
        raise ModelError(f"Tensor '{label}' has {count} dimensions, at most {MOST_DIMENSIONS} make sense.")
    shape = tuple(proto.dims)
    if any(d < 0 for d in shape) or math.prod(shape) > _MOST_ELEMENTS:
        raise ModelError(f"Tensor '{label}' declares an impossible shape {list(shape)}. The model is damaged.")
    return shape


def _locate(proto: TensorProto, model: Path, label: str) -> FileSlice:
    """Where the bytes of an external tensor are."""
    location, offset, length = _reference(proto, label)
    width = bit_width(proto.data_type)
    wanted = (math.prod(proto.dims) * width + 7) // 8 if width else length or 0  # unknown types: as the model says
    if location == NEW:
        return FileSlice(Path(location), offset, wanted)
    if not wanted:
        return FileSlice(model, 0, 0)
    path = model if location == SELF else external_file(model, location, label)
    return check_slice(FileSlice(path, offset, wanted if length is None else length), label, wanted)


def _check_inline(proto: TensorProto, label: str) -> None:
    """Whether there are as many values as the shape needs; 4-bit and complex ones are left to ONNX's checker."""
    if proto.HasField("raw_data"):
        width, unit, got = bit_width(proto.data_type), "bytes", len(proto.raw_data)
        wanted = (math.prod(proto.dims) * width + 7) // 8 if width else got
    elif proto.data_type in NUMPY_TYPES or proto.data_type == TensorProto.STRING:
        values = getattr(proto, _TYPED_FIELDS.get(proto.data_type, "int32_data"))
        unit, got, wanted = "values", len(values), math.prod(proto.dims)
    else:
        return
    if got != wanted:
        raise ModelError(
            f"Tensor '{label}' declares a shape {list(proto.dims)} of {wanted} {unit}, but {got} {unit} of data. "
            "The model is damaged."
        )


def _reference(proto: TensorProto, label: str) -> tuple[str, int, int | None]:
    """(location, offset, length or None) of external data."""
    entries = {entry.key: entry.value for entry in proto.external_data}
    if len(entries) != len(proto.external_data):
        raise ModelError(f"External data of tensor '{label}' names something twice. The model is damaged.")
    offset = _number(entries.get("offset", "0"), label)
    length = _number(entries["length"], label) if "length" in entries else None
    return entries.get("location", ""), offset, length


def _number(text: str, label: str) -> int:
    """A number of bytes; plain digits only, which every reader understands alike."""
    if re.fullmatch(r"-[0-9]+", text):
        raise ModelError(f"External data of tensor '{label}' has a negative offset or length.")
    if not re.fullmatch(r"[0-9]{1,50}", text):
        raise ModelError(f"External data of tensor '{label}' has a garbled offset or length (got {text[:40]!r}).")
    return int(text)


def refer(proto: TensorProto, location: str, offset: int, length: int) -> None:
    """Make a tensor message refer to external data instead of holding its values."""
    clear_values(proto)
    proto.MergeFromString(reference(location, offset, length))


def embed(proto: TensorProto, data: bytes) -> None:
    """Make a tensor message hold its values instead of referring to external data."""
    clear_values(proto)
    proto.raw_data = data


def clear_values(proto: TensorProto) -> None:
    """Leave name, type, shape and documentation only."""
    for field_name in _VALUE_FIELDS:
        proto.ClearField(field_name)


def tensor_proto(name: str, array: npt.NDArray[Any]) -> TensorProto:
    """A tensor message with values inside (for small tensors)."""
    header = tensor_header(name, array.dtype, array.shape)
    header.raw_data = np.ascontiguousarray(array).tobytes()
    return header


def tensor_header(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> TensorProto:
    """A tensor message with name, type and shape, without values."""
    return TensorProto(name=name, data_type=ONNX_TYPES[dtype], dims=shape)
