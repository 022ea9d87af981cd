"""Operators that make or change elements that shapes are made of: arithmetic, and what asks for shapes."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from onnx import TensorProto
from onnx.numpy_helper import to_array

from onnxfq.graph.shape_call import MOST_VALUES, Inferred, ShapeCall, Untold, as_data, unknown_sizes
from onnxfq.graph.size_expressions import Compute, Lanes


def _divide(one: Lanes, other: Lanes) -> Lanes:
    whole = all(np.asarray(v).dtype.kind in "iub" for v in (one, other))
    return np.floor_divide(one, other) if whole else np.true_divide(one, other)


_ARITHMETIC: dict[str, Compute] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": _divide,
    "Mod": np.mod,
    "Pow": np.power,
    "Min": lambda *values: functools.reduce(np.minimum, values),
    "Max": lambda *values: functools.reduce(np.maximum, values),
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Not": np.logical_not,
    "Where": np.where,
    "Neg": np.negative,
    "Abs": np.abs,
    "Floor": np.floor,
    "Ceil": np.ceil,
    "Round": np.rint,
    "Sqrt": np.sqrt,
}


def _elementwise(call: ShapeCall) -> Inferred:
    shapes = [call.shape(index) for index in range(len(call.inputs))]
    data = [known.data for known in call.inputs]
    function = _ARITHMETIC.get(call.node.op_type)
    if function is None or any(d is None for d in data):
        return Inferred(call.sizes.broadcast(*shapes))
    computed = call.compute(function, *(d for d in data if d is not None))
    return Inferred(call.sizes.broadcast(*shapes), computed)


_KINDS = {TensorProto.BOOL: np.bool_, TensorProto.INT64: np.int64, TensorProto.INT32: np.int64}
_KINDS |= {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float32, TensorProto.DOUBLE: np.float64}


def _cast(call: ShapeCall) -> Inferred:
    shape, data, kind = call.shape(), call.inputs[0].data, _KINDS.get(call.node.integer("to", 0))
    if data is None or kind is None:
        return Inferred(shape)
    return Inferred(shape, call.compute(lambda value: np.asarray(value).astype(kind), data))


def _shape(call: ShapeCall) -> Inferred:
    shape = call.shape()
    part = shape[call.node.integer("start", 0) : call.node.integer("end", len(shape))]
    return Inferred((len(part),), as_data(part))


def _size(call: ShapeCall) -> Inferred:
    return Inferred((), as_data(call.sizes.product(*call.shape())))


def _constant_of_shape(call: ShapeCall) -> Inferred:
    try:
        shape = tuple(call.data(0).ravel())
    except Untold:
        return Inferred(unknown_sizes(call, 0))
    value = call.node.attributes.get("value")
    whole = all(isinstance(size, int) for size in shape)
    if not whole or np.prod(np.asarray(shape, np.float64)) > MOST_VALUES:
        return Inferred(shape)
    if value is not None and not isinstance(value, TensorProto):
        raise Untold
    number = 0.0 if value is None else _only(value)
    return Inferred(shape, None if number is None else np.full(shape, number, object))


def _only(value: TensorProto) -> int | float | None:
    """The number that a tensor of one element holds."""
    found = np.asarray(to_array(value)).ravel()
    return found[0].item() if found.size == 1 and found.dtype.kind in "iufb" else None


def _range(call: ShapeCall) -> Inferred:
    try:
        start, limit, step = (call.data(index).item() for index in range(3))
    except Untold:
        return Inferred((None,))
    count = call.sizes.apply(lambda a, b, s: np.maximum(0, np.ceil((b - a) / s)).astype(np.int64), start, limit, step)
    if not isinstance(count, int) or count > MOST_VALUES:
        return Inferred((count,))
    return Inferred(
        (count,), as_data([call.sizes.apply(lambda a, s, i=i: a + i * s, start, step) for i in range(count)])
    )


VALUES: dict[str, Callable[[ShapeCall], Inferred]] = {
    **dict.fromkeys(_ARITHMETIC, _elementwise),
    **dict.fromkeys(("Sum", "Mean", "PRelu", "Xor", "BitShift", "BitwiseAnd", "BitwiseOr"), _elementwise),
    "Cast": _cast,
    "Shape": _shape,
    "Size": _size,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
}
