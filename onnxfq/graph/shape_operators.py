"""What operators do to shapes: one line in `OPERATORS` an operator, one function for all that do the same.

A function returns the shape of the node's first output, or `Inferred` where elements are known too, or a list of these,
one an output; and it says (`sizes.equal`, `sizes.require`) what must hold for the node to run. Where it cannot tell, it
raises `Untold`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxfq.graph.bodies import Node
from onnxfq.graph.shape_call import MOST_VALUES, Dims, Inferred, ShapeCall, Untold, as_data, axis_of, unknown_sizes
from onnxfq.graph.shape_layers import LAYERS
from onnxfq.graph.shape_values import VALUES
from onnxfq.graph.size_expressions import Lanes, Size

Operator = Callable[[ShapeCall], "Dims | Inferred | list[Dims | Inferred]"]


def operator_of(node: Node) -> Operator | None:
    """What a node does to shapes; None where that is not known."""
    key = node.op_type if node.domain in ("", "com.microsoft") else ""
    return OPERATORS.get(f"{node.domain}:{key}") or OPERATORS.get(key)


def _same(call: ShapeCall) -> Dims:
    return call.shape()


def _identity(call: ShapeCall) -> Inferred:
    return call.inputs[0]


def _moved(call: ShapeCall, shape: Dims) -> Inferred:
    """The same elements in another shape."""
    data = call.inputs[0].data
    fixed = [size for size in shape if isinstance(size, int)]
    return Inferred(shape, data.reshape(fixed) if data is not None and len(fixed) == len(shape) else None)


def _reshape(call: ShapeCall) -> Inferred:
    source = call.inputs[0].shape
    try:
        wanted = call.numbers("shape", 1)
    except Untold:
        return Inferred(unknown_sizes(call, 1))
    keeps = not call.node.integer("allowzero", 0)
    kept = [keeps and size == 0 and not isinstance(size, float) for size in wanted]
    result = [(source[i] if source and i < len(source) else None) if kept[i] else s for i, s in enumerate(wanted)]
    if source is None:
        return Inferred(tuple(None if size == -1 else size for size in result))
    given = call.sizes.product(*(s for i, s in enumerate(source) if not (i < len(kept) and kept[i])))
    others = call.sizes.product(*(s for s, k in zip(result, kept, strict=True) if not k and s != -1))
    if -1 in result:
        call.sizes.require(_divides, others, given)
        result[result.index(-1)] = call.sizes.apply(np.floor_divide, given, others)
    else:
        call.sizes.equal(given, others)
    return _moved(call, tuple(result))


def _divides(part: Lanes, whole: Lanes) -> Lanes:
    return np.mod(whole, part) == 0


def _flatten(call: ShapeCall) -> Dims:
    shape = call.shape()
    axis = call.node.integer("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return call.sizes.product(*shape[:axis]), call.sizes.product(*shape[axis:])


def _squeeze(call: ShapeCall) -> Inferred:
    shape = call.shape()
    ones = [axis for axis, size in enumerate(shape) if size == 1]
    dropped = call.axes(1, len(shape), ones)
    return _moved(call, tuple(size for axis, size in enumerate(shape) if axis not in dropped))


def _unsqueeze(call: ShapeCall) -> Inferred:
    shape = call.shape()
    wanted = call.numbers("axes", 1)
    rank = len(shape) + len(wanted)
    added, rest = {axis_of(axis, rank) for axis in wanted}, iter(shape)
    return _moved(call, tuple(1 if axis in added else next(rest) for axis in range(rank)))


def _transpose(call: ShapeCall) -> Inferred:
    shape, data = call.shape(), call.inputs[0].data
    order = call.node.integers("perm") or tuple(reversed(range(len(shape))))
    return Inferred(tuple(shape[axis] for axis in order), None if data is None else data.transpose(order))


def _concat(call: ShapeCall) -> Inferred:
    shapes = [call.shape(index) for index in range(len(call.inputs))]
    axis = call.axis(0, len(shapes[0]))
    result = list(shapes[0])
    for shape in shapes[1:]:
        for i, (one, other) in enumerate(zip(result, shape, strict=True)):
            result[i] = call.sizes.apply(np.add, one, other) if i == axis else call.sizes.equal(one, other)
    data = [known.data for known in call.inputs]
    small = sum(d.size for d in data if d is not None) <= MOST_VALUES and all(d is not None for d in data)
    return Inferred(tuple(result), np.concatenate([d for d in data if d is not None], axis) if small else None)


def _split(call: ShapeCall) -> list[Dims | Inferred]:
    shape, count = call.shape(), len(call.node.outputs)
    axis = call.axis(0, len(shape))
    parts = call.numbers("split", 1, ())
    if not parts:
        part = call.sizes.apply(lambda size, by: -(-size // by), shape[axis], call.node.integer("num_outputs", count))
        parts = [part] * count
    return [(*shape[:axis], part, *shape[axis + 1 :]) for part in parts]


def _slice(call: ShapeCall) -> Inferred:
    shape = list(call.shape())
    starts, ends = call.numbers("starts", 1), call.numbers("ends", 2)
    axes = call.axes(3, len(shape), range(len(starts)))
    steps = call.numbers("steps", 4, [1] * len(starts))
    data = call.inputs[0].data
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        shape[axis] = call.sizes.apply(_slice_length, start, end, shape[axis], step)
        if data is not None and isinstance(start, int) and isinstance(end, int) and isinstance(step, int):
            data = data[(slice(None),) * axis + (slice(start, end if step > 0 or end >= 0 else None, step),)]
        else:
            data = None
    return Inferred(tuple(shape), data)


def _slice_length(start: Lanes, end: Lanes, size: Lanes, step: Lanes) -> Lanes:
    low, high = np.where(step > 0, 0, -1), np.where(step > 0, size, size - 1)
    start, end = (np.clip(np.where(v < 0, v + size, v), low, high) for v in (start, end))
    return np.maximum(0, -((start - end) // step))


def _gather(call: ShapeCall) -> Inferred:
    shape, places = call.shape(), call.shape(1)
    axis = call.axis(0, len(shape))
    data, indices = call.inputs[0].data, call.inputs[1].data
    fixed = indices is not None and all(isinstance(i, int) for i in indices.ravel())
    taken = np.take(data, np.asarray(indices, np.int64), axis) if data is not None and fixed else None
    return Inferred((*shape[:axis], *places, *shape[axis + 1 :]), None if taken is None else as_data(taken))


def _gather_nd(call: ShapeCall) -> Dims:
    shape, places, batch = call.shape(), call.shape(1), call.node.integer("batch_dims", 0)
    if not isinstance(places[-1], int):
        raise Untold
    return (*places[:-1], *shape[batch + places[-1] :])


def _expand(call: ShapeCall) -> Inferred:
    shape = call.shape()
    try:
        wanted = tuple(call.numbers("shape", 1))
    except Untold:
        wanted = unknown_sizes(call, 1)
    return Inferred(call.sizes.broadcast(shape, wanted))


def _tile(call: ShapeCall) -> Dims:
    shape, repeats = call.shape(), call.numbers("repeats", 1, [None] * len(call.shape()))
    return tuple(call.sizes.product(s, r) for s, r in zip(shape, repeats, strict=True))


def _pad(call: ShapeCall) -> Dims:
    shape = list(call.shape())
    axes = call.axes(3, len(shape), range(len(shape)))
    try:
        pads = call.numbers("pads", 1)
    except Untold:
        pads = list[Size]((None,) * 2 * len(axes))
    for i, axis in enumerate(axes):
        ends = call.sizes.apply(np.add, pads[i], pads[i + len(axes)])
        shape[axis] = call.sizes.apply(np.add, shape[axis], ends)
    return tuple(shape)


def _resize(call: ShapeCall) -> Dims:
    shape = call.shape()
    if call.node.has("axes"):
        raise Untold
    if call.has(3):
        return tuple(call.numbers("sizes", 3))
    scales = call.numbers("scales", 2 if len(call.inputs) > 2 else 1)
    if len(scales) != len(shape):
        raise Untold
    return tuple(call.sizes.apply(_scaled, size, scale) for size, scale in zip(shape, scales, strict=True))


def _scaled(size: Lanes, scale: Lanes) -> Lanes:
    return np.floor(np.asarray(size, np.float32) * np.asarray(scale, np.float32)).astype(np.int64)  # as it is computed


def _depth_to_space(call: ShapeCall) -> Dims:
    (batch, depth, *sides), block = call.shape(0, 4), call.node.integer("blocksize", 1)
    over, under = (block**2, block) if call.node.op_type == "DepthToSpace" else (block, block**2)
    if over == block:
        return (batch, call.sizes.product(depth, under), *(_part(call, side, over) for side in sides))
    return (batch, _part(call, depth, over), *(call.sizes.product(side, under) for side in sides))


def _part(call: ShapeCall, size: Size, by: int) -> Size:
    call.sizes.require(_divides, by, size)
    return call.sizes.apply(np.floor_divide, size, by)


def _one_hot(call: ShapeCall) -> Dims:
    places = call.shape()
    axis = axis_of(call.node.integer("axis", -1), len(places) + 1)
    return (*places[:axis], call.data(1).item(), *places[axis:])


def _top(call: ShapeCall) -> list[Dims | Inferred]:
    shape = call.shape()
    axis = call.axis(-1, len(shape))
    (count,) = call.numbers("k", 1)
    return [(*shape[:axis], count, *shape[axis + 1 :])] * 2


def _reduce(call: ShapeCall) -> Inferred:
    shape = call.shape()
    idle = call.node.integer("noop_with_empty_axes", 0)
    axes = call.axes(1, len(shape), () if idle else range(len(shape)))
    kept = call.node.integer("keepdims", 1)
    result = tuple(1 if i in axes else size for i, size in enumerate(shape) if kept or i not in axes)
    data = call.inputs[0].data
    if call.node.op_type != "ReduceProd" or data is None or len(shape) != 1:
        return Inferred(result)
    return Inferred(result, as_data([call.sizes.product(*data)]).reshape((1,) if kept else ()))


def _place_of_extreme(call: ShapeCall) -> Dims:
    shape = call.shape()
    axis = call.axis(0, len(shape))
    return (*shape[:axis], *([1] if call.node.integer("keepdims", 1) else []), *shape[axis + 1 :])


def _pooled_whole(call: ShapeCall) -> Dims:
    shape = call.shape()
    return (*shape[:2], *[1] * (len(shape) - 2))


OPERATORS: dict[str, Operator] = {
    **dict.fromkeys(("Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh"), _same),
    **dict.fromkeys(("Softplus", "Softsign", "Gelu", "FastGelu", "QuickGelu", "Mish", "ThresholdedRelu", "Erf"), _same),
    **dict.fromkeys(("Exp", "Log", "Sin", "Cos", "Tan", "Reciprocal", "Sign", "Clip", "IsNaN", "IsInf"), _same),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "Dropout", "CumSum", "Trilu", "LRN", "EyeLike"), _same),
    **dict.fromkeys(("LpNormalization", "MeanVarianceNormalization", "GroupNormalization", "CastLike"), _same),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear", "RotaryEmbedding", "ReverseSequence"), _same),
    **dict.fromkeys(("Scatter", "ScatterElements", "ScatterND", "MoE", "QMoE", "BitwiseNot"), _same),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), _pooled_whole),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1"), _reduce),
    **dict.fromkeys(("ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"), _reduce),
    **dict.fromkeys(("ArgMax", "ArgMin"), _place_of_extreme),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _depth_to_space),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "Identity": _identity,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": lambda call: call.shape(1),
    "GatherND": _gather_nd,
    "Expand": _expand,
    "Tile": _tile,
    "Pad": _pad,
    "OneHot": _one_hot,
    "TopK": _top,
    "NonZero": lambda call: (len(call.shape()), None),
    "GridSample": lambda call: (*call.shape(0, 4)[:2], *call.shape(1, 4)[1:3]),
    "DynamicQuantizeLinear": lambda call: [call.shape(), (), ()],
    "GatherBlockQuantized": lambda call: (*call.shape(1), None),
    "EmbedLayerNormalization": lambda call: (*call.shape(), call.shape(2, 2)[1]),
    **VALUES,
    **LAYERS,
}
