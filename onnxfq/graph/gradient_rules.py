"""Gradients of what sums up, moves, and normalizes: one function an operator, made of ONNX's own nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnx import NodeProto, TensorProto

from onnxfq.graph.gradient_nodes import GradientNodes, NoGradientError
from onnxfq.graph.gradient_registry import Slopes, attributes_of, gradient_of, only

_OPSET_OF_SUMS = 16  # from which ScatterND adds


def _each(nodes: GradientNodes, node: NodeProto, made: Sequence[Callable[[], str]], wanted: Sequence[bool]) -> Slopes:
    """The gradients of operands that are repeated along each other's axes, each made where it is wanted."""
    over = nodes.shape(node.output[0])
    return [
        nodes.summed_to(make(), name, over) if want else None
        for make, name, want in zip(made, node.input, wanted, strict=True)
    ]


@gradient_of("Add", "Sum")
def _add(nodes: GradientNodes, node: NodeProto, gradients: Slopes, wanted: Sequence[bool]) -> Slopes:
    g = only(gradients)
    return _each(nodes, node, [lambda: g] * len(node.input), wanted)


@gradient_of("Sub")
def _sub(nodes: GradientNodes, node: NodeProto, gradients: Slopes, wanted: Sequence[bool]) -> Slopes:
    g = only(gradients)
    return _each(nodes, node, [lambda: g, lambda: nodes.add("Neg", g)], wanted)


@gradient_of("Mul")
def _mul(nodes: GradientNodes, node: NodeProto, gradients: Slopes, wanted: Sequence[bool]) -> Slopes:
    g, (x, y) = only(gradients), node.input
    return _each(nodes, node, [lambda: nodes.add("Mul", g, y), lambda: nodes.add("Mul", g, x)], wanted)


@gradient_of("Div")
def _div(nodes: GradientNodes, node: NodeProto, gradients: Slopes, wanted: Sequence[bool]) -> Slopes:
    part = nodes.add("Div", only(gradients), node.input[1])
    other = lambda: nodes.add("Neg", nodes.add("Mul", part, node.output[0]))  # noqa: E731 - as the others are written
    return _each(nodes, node, [lambda: part, other], wanted)


@gradient_of("Where")
def _where(nodes: GradientNodes, node: NodeProto, gradients: Slopes, wanted: Sequence[bool]) -> Slopes:
    g, zero, condition = only(gradients), nodes.number(0), node.input[0]
    yes, no = (lambda: nodes.add("Where", condition, g, zero)), (lambda: nodes.add("Where", condition, zero, g))
    return _each(nodes, node, [lambda: g, yes, no], [False, *wanted[1:]])


@gradient_of("MatMul")
def _matmul(nodes: GradientNodes, node: NodeProto, gradients: Slopes, wanted: Sequence[bool]) -> Slopes:
    (x, w), g, found = node.input, only(gradients), list[str | None]([None, None])
    ranks = nodes.rank(x), nodes.rank(w)
    if min(ranks) < 2:
        raise NoGradientError
    over = nodes.shape(node.output[0])
    if wanted[0]:
        product = nodes.add("MatMul", g, nodes.swap(w, ranks[1]))
        found[0] = nodes.summed_to(product, x, [*over[:-2], *nodes.shape(x)[-2:]])
    if wanted[1] and ranks[1] == 2 and w in nodes.still:
        k, n = nodes.shape(w)
        rows, slopes = (nodes.add("Reshape", v, nodes.integers(-1, size)) for v, size in ((x, k), (g, n)))
        found[1] = nodes.add("MatMul", nodes.add("Transpose", rows, perm=[1, 0]), slopes)
    elif wanted[1]:
        product = nodes.add("MatMul", nodes.swap(x, ranks[0]), g)
        found[1] = nodes.summed_to(product, w, [*over[:-2], *nodes.shape(w)[-2:]])
    return found


@gradient_of("Gemm")
def _gemm(nodes: GradientNodes, node: NodeProto, gradients: Slopes, wanted: Sequence[bool]) -> Slopes:
    attributes, g = attributes_of(node), only(gradients)
    if attributes.get("transA") or attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
        raise NoGradientError
    (x, w), turned = node.input[:2], bool(attributes.get("transB"))
    found: list[str | None] = [None] * len(node.input)
    if wanted[0]:
        found[0] = nodes.add("Gemm", g, w, transB=int(not turned))
    if wanted[1]:
        found[1] = nodes.add("Gemm", *((g, x) if turned else (x, g)), transA=1)
    if wanted[2:] == [True]:
        found[2] = nodes.summed_to(g, node.input[2], nodes.shape(node.output[0]))
    return found


@gradient_of("Softmax")
def _softmax(nodes: GradientNodes, node: NodeProto, gradients: Slopes, wanted: Sequence[bool]) -> Slopes:
    y, axis = node.output[0], int(attributes_of(node).get("axis", -1))
    product = nodes.add("Mul", only(gradients), y)
    total = nodes.add("ReduceSum", product, nodes.integers(axis), keepdims=1)
    return [nodes.add("Sub", product, nodes.add("Mul", y, total))]


@gradient_of("LayerNormalization")
def _layer_norm(nodes: GradientNodes, node: NodeProto, gradients: Slopes, wanted: Sequence[bool]) -> Slopes:
    """With the node's own mean and inverse of the deviation, which become outputs where they are none yet."""
    (x, gamma), g = node.input[:2], only(gradients)
    if nodes.axis(attributes_of(node).get("axis", -1), x) != nodes.rank(x) - 1:
        raise NoGradientError
    outputs = [*node.output, "", ""][:3]
    mean, inverse = outputs[1] or f"{outputs[0]}/mean", outputs[2] or f"{outputs[0]}/inverse"
    del node.output[1:]
    node.output.extend([mean, inverse])
    unit = nodes.add("Mul", nodes.add("Sub", x, mean), inverse)
    return _normalized(nodes, node, g, unit, inverse, wanted, centred=True, gamma=gamma)


@gradient_of("SimplifiedLayerNormalization", "RMSNormalization")
def _rms_norm(nodes: GradientNodes, node: NodeProto, gradients: Slopes, wanted: Sequence[bool]) -> Slopes:
    (x, gamma), attributes, g = node.input[:2], attributes_of(node), only(gradients)
    if nodes.axis(attributes.get("axis", -1), x) != nodes.rank(x) - 1:
        raise NoGradientError
    size = nodes.number(nodes.shape(gamma)[-1])
    mean = nodes.add("Div", nodes.add("ReduceSum", nodes.add("Mul", x, x), nodes.integers(-1), keepdims=1), size)
    raised = nodes.add("Add", mean, nodes.number(attributes.get("epsilon", 1e-5)))
    inverse = nodes.add("Reciprocal", nodes.add("Sqrt", raised))
    return _normalized(nodes, node, g, nodes.add("Mul", x, inverse), inverse, wanted, centred=False, gamma=gamma)


def _normalized(
    nodes: GradientNodes,
    node: NodeProto,
    g: str,
    unit: str,
    inverse: str,
    wanted: Sequence[bool],
    *,
    centred: bool,
    gamma: str,
) -> Slopes:
    """Of `γ·unit + β`, unit being the input less its mean or not, times `inverse`."""
    found: list[str | None] = [None] * len(node.input)
    width = nodes.shape(gamma)[-1]

    def mean(value: str) -> str:
        return nodes.add("Div", nodes.add("ReduceSum", value, nodes.integers(-1), keepdims=1), nodes.number(width))

    def over_rows(value: str) -> str:
        rows = nodes.add("Reshape", value, nodes.integers(-1, width))
        return nodes.add("ReduceSum", rows, nodes.integers(0), keepdims=0)

    if wanted[0]:
        slope = nodes.add("Mul", g, gamma)
        rest = nodes.add("Sub", slope, nodes.add("Mul", unit, mean(nodes.add("Mul", slope, unit))))
        found[0] = nodes.add("Mul", nodes.add("Sub", rest, mean(slope)) if centred else rest, inverse)
    if wanted[1]:
        found[1] = over_rows(nodes.add("Mul", g, unit))
    if wanted[2:] == [True]:
        found[2] = over_rows(g)
    return found


@gradient_of("Transpose")
def _transpose(nodes: GradientNodes, node: NodeProto, gradients: Slopes, wanted: Sequence[bool]) -> Slopes:
    order = list(attributes_of(node).get("perm", range(nodes.rank(node.input[0]))[::-1]))
    return [nodes.add("Transpose", only(gradients), perm=[order.index(axis) for axis in range(len(order))])]


@gradient_of("Reshape", "Squeeze", "Unsqueeze", "Flatten")
def _reshape(nodes: GradientNodes, node: NodeProto, gradients: Slopes, wanted: Sequence[bool]) -> Slopes:
    return [nodes.like(only(gradients), node.input[0]), *[None] * (len(node.input) - 1)]


@gradient_of("Expand")
def _expand(nodes: GradientNodes, node: NodeProto, gradients: Slopes, wanted: Sequence[bool]) -> Slopes:
    return [nodes.summed_to(only(gradients), node.input[0], nodes.shape(node.output[0])), None]


@gradient_of("ReduceMean", "ReduceSum")
def _reduce(nodes: GradientNodes, node: NodeProto, gradients: Slopes, wanted: Sequence[bool]) -> Slopes:
    x, attributes, g = node.input[0], attributes_of(node), only(gradients)
    axes = nodes.axes(node, attributes)
    if not attributes.get("keepdims", 1):
        sizes = [nodes.add("Gather", nodes.add("Shape", x), nodes.integers(i)) for i in range(nodes.rank(x))]
        kept = [nodes.integers(1) if i in axes else size for i, size in enumerate(sizes)]
        g = nodes.add("Reshape", g, nodes.add("Concat", *kept, axis=0))
    if node.op_type == "ReduceMean":
        ratio = nodes.add(
            "Div", *(nodes.add("Cast", nodes.add("Size", v), to=TensorProto.FLOAT) for v in (node.output[0], x))
        )
        g = nodes.add("Mul", g, ratio)
    return [nodes.add("Expand", g, nodes.add("Shape", x)), *[None] * (len(node.input) - 1)]


@gradient_of("Concat")
def _concat(nodes: GradientNodes, node: NodeProto, gradients: Slopes, wanted: Sequence[bool]) -> Slopes:
    axis = nodes.axis(attributes_of(node).get("axis"), node.output[0])
    sizes = [nodes.add("Gather", nodes.add("Shape", name), nodes.integers(axis)) for name in node.input]
    lengths = nodes.add("Concat", *sizes, axis=0)
    parts = nodes.add_many("Split", len(sizes), only(gradients), lengths, axis=axis)
    return [part if want else None for part, want in zip(parts, wanted, strict=True)]


@gradient_of("Split")
def _split(nodes: GradientNodes, node: NodeProto, gradients: Slopes, wanted: Sequence[bool]) -> Slopes:
    axis = nodes.axis(attributes_of(node).get("axis", 0), node.input[0])
    parts = [
        nodes.add("Expand", nodes.number(0), nodes.add("Shape", name)) if g is None else g
        for name, g in zip(node.output, gradients, strict=True)
    ]
    return [nodes.add("Concat", *parts, axis=axis), *[None] * (len(node.input) - 1)]


@gradient_of("Slice")
def _slice(nodes: GradientNodes, node: NodeProto, gradients: Slopes, wanted: Sequence[bool]) -> Slopes:
    """Zeros around it; of one axis, in steps of 1."""
    x, axes = node.input[0], nodes.constants.get(node.input[3]) if len(node.input) > 3 else None
    steps = nodes.constants.get(node.input[4]) if len(node.input) > 4 else None
    if axes is None or axes.size != 1 or (len(node.input) > 4 and (steps is None or (steps != 1).any())):
        raise NoGradientError
    axis = nodes.axis(int(axes.reshape(-1)[0]), x)
    size = nodes.add("Squeeze", nodes.add("Gather", nodes.add("Shape", x), nodes.integers(axis)), nodes.integers(0))
    zero, one = (nodes.add("Squeeze", nodes.integers(value), nodes.integers(0)) for value in (0, 1))
    ends = [nodes.add("Cast", name, to=TensorProto.INT64) for name in node.input[1:3]]
    kept = nodes.add("Slice", nodes.add("Range", zero, size, one), *ends, nodes.integers(0))
    before = nodes.add("Gather", kept, nodes.integers(0))
    last = nodes.add("Gather", kept, nodes.integers(-1))
    after = nodes.add("Sub", nodes.add("Sub", size, last), nodes.integers(1))
    around = [nodes.integers(0)] * (2 * nodes.rank(x))
    around[axis], around[nodes.rank(x) + axis] = before, after
    padded = nodes.add("Pad", only(gradients), nodes.add("Concat", *around, axis=0))
    return [padded, *[None] * (len(node.input) - 1)]


@gradient_of("Gather")
def _gather(nodes: GradientNodes, node: NodeProto, gradients: Slopes, wanted: Sequence[bool]) -> Slopes:
    """Of what is taken from computed values; rows that are taken twice get both gradients."""
    if nodes.opset < _OPSET_OF_SUMS:
        raise NoGradientError
    (x, indices), g = node.input, only(gradients)
    axis, rank, inner = nodes.axis(attributes_of(node).get("axis", 0), x), nodes.rank(x), nodes.rank(indices)
    others = [i for i in range(rank) if i != axis]
    taken = range(axis, axis + inner)
    turned = nodes.add("Transpose", g, perm=[*taken, *(i for i in range(rank + inner - 1) if i not in taken)])
    front = nodes.add("Transpose", x, perm=[axis, *others])
    shape = nodes.add("Shape", front)
    rest = nodes.add("Slice", shape, nodes.integers(1), nodes.integers(rank))
    rows = nodes.add("Reshape", turned, nodes.add("Concat", nodes.integers(-1), rest, axis=0))
    where = nodes.add("Reshape", nodes.add("Cast", indices, to=TensorProto.INT64), nodes.integers(-1, 1))
    zeros = nodes.add("Expand", nodes.number(0), shape)
    summed = nodes.add("ScatterND", zeros, where, rows, reduction="add")
    order = [axis, *others]
    return [nodes.add("Transpose", summed, perm=[order.index(i) for i in range(rank)]), None]
