"""What the table of operators says of shapes is what ONNX Runtime makes of them, whatever the sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from onnxfq.graph.bodies import bodies
from onnxfq.graph.implied_sizes import symbolic
from onnxfq.graph.shape_operators import OPERATORS
from onnxfq.graph.shape_walk import ShapeWalk
from onnxfq.graph.size_expressions import Expression, Size, evaluate, steps_to
from onnxfq.signature import TensorSpec
from support.models import Array, model

Shape = tuple[int, ...]
IMAGE: dict[str, Shape] = {"x": (2, 8, 12, 20)}
ROWS: dict[str, Shape] = {"x": (3, 6, 8)}
TOKENS: dict[str, Shape] = {"x": (2, 5, 16)}


def zeros(*shape: int) -> Array:
    return np.zeros(shape, np.float32)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


ZERO, ONE, MINUS = ({name: ints(value)} for name, value in (("zero", 0), ("one", 1), ("minus", -1)))
BYTES: dict[str, Array] = {"xs": np.array(1, np.float32), "xz": np.array(0, np.uint8)}
MIXED = "h = Shape <start = 2> (x) f = Cast <to = 1> (h)"

CASES: list[tuple[str, Mapping[str, Shape], Mapping[str, Array]]] = [
    # Layers
    ("y = MatMul (x, w)", ROWS, {"w": zeros(8, 4)}),
    ("y = MatMul (w, x)", ROWS, {"w": zeros(4, 6)}),
    ("y = MatMul (x, w)", ROWS, {"w": zeros(8)}),
    ("t = Transpose <perm = [0, 2, 1]> (x) y = MatMul (x, t)", ROWS, {}),
    ("y = Gemm <transA = 1, transB = 1> (x, w)", {"x": (6, 3)}, {"w": zeros(4, 6)}),
    ('y = Einsum <equation = "bij,jk->bki"> (x, w)', ROWS, {"w": zeros(8, 4)}),
    ("y = Conv <pads = [1, 2, 3, 4], strides = [2, 3], dilations = [2, 1]> (x, k)", IMAGE, {"k": zeros(5, 8, 3, 3)}),
    ('y = Conv <auto_pad = "SAME_UPPER", strides = [2, 3]> (x, k)', IMAGE, {"k": zeros(5, 8, 3, 3)}),
    ('y = Conv <auto_pad = "VALID", group = 2> (x, k)', IMAGE, {"k": zeros(6, 4, 3, 5)}),
    ("y = ConvTranspose <strides = [2, 3], pads = [1, 1, 1, 0], output_padding = [1, 0]> (x, k)", IMAGE,
     {"k": zeros(8, 3, 4, 5)}),
    ("y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (x)", IMAGE, {}),
    ("y = AveragePool <kernel_shape = [2, 5], pads = [1, 0, 1, 2]> (x)", IMAGE, {}),
    ("y = BatchNormalization (x, s, s, s, s)", IMAGE, {"s": zeros(8)}),
    ("y = LayerNormalization <axis = 2> (x, s)", ROWS, {"s": zeros(8)}),
    ("y, h, c = LSTM <hidden_size = 8> (x, w, r)", ROWS, {"w": zeros(1, 32, 8), "r": zeros(1, 32, 8)}),
    ('y, h = GRU <hidden_size = 4, direction = "bidirectional"> (x, w, r)', ROWS,
     {"w": zeros(2, 12, 8), "r": zeros(2, 12, 4)}),
    ('a, y = GRU <hidden_size = 4, direction = "bidirectional"> (x, w, r)', ROWS,
     {"w": zeros(2, 12, 8), "r": zeros(2, 12, 4)}),
    ("y = com.microsoft.Attention <num_heads = 2> (x, w, b)", TOKENS, {"w": zeros(16, 48), "b": zeros(48)}),
    ("y = com.microsoft.MultiHeadAttention <num_heads = 2> (x, x, x)", TOKENS, {}),
    ("y, a, b, s = com.microsoft.SkipLayerNormalization (x, x, g)", TOKENS, {"g": zeros(16)}),
    ("a, m, v, y = com.microsoft.SkipLayerNormalization (x, x, g)", TOKENS, {"g": zeros(16)}),
    ("y = STFT (x, step, window)", {"x": (2, 50, 1)}, {"step": np.array(4, np.int64), "window": zeros(16)}),
    ("i = Cast <to = 2> (x) y = MatMulInteger (i, w)", ROWS, {"w": np.zeros((8, 4), np.uint8)}),
    ("q = QuantizeLinear (x, xs, xz) r = QLinearMatMul (q, xs, xz, w, xs, xz, xs, xz) y = DequantizeLinear (r, xs, xz)",
     ROWS, {"w": np.zeros((8, 4), np.uint8), **BYTES}),
    ("y = com.microsoft.MatMulNBits <K = 16, N = 4, bits = 4, block_size = 16> (x, w, s)", TOKENS,
     {"w": np.zeros((4, 1, 8), np.uint8), "s": zeros(4)}),
    ("i = Cast <to = 7> (x) y = com.microsoft.GatherBlockQuantized <block_size = 16, bits = 8> (w, i, s)", TOKENS,
     {"w": np.zeros((4, 16), np.uint8), "s": zeros(4, 1)}),
    ("i = Cast <to = 6> (x) y, m = com.microsoft.EmbedLayerNormalization (i, , w, w, , g, g)", {"x": (2, 5)},
     {"w": zeros(5, 16), "g": zeros(16)}),
    ("q = QuantizeLinear (x, xs, xz) r = QLinearConv <strides = [2, 2]> (q, xs, xz, k, xs, xz, xs, xz) "
     "y = DequantizeLinear (r, xs, xz)", IMAGE, {"k": np.zeros((5, 8, 3, 3), np.uint8), **BYTES}),
    ("q = QuantizeLinear (x, xs, xz) r = com.microsoft.QGemm (q, xs, xz, w, xs, xz, , xs, xz) "
     "y = DequantizeLinear (r, xs, xz)", {"x": (3, 8)}, {"w": np.zeros((8, 4), np.uint8), **BYTES}),
    ("y, h, c = com.microsoft.DynamicQuantizeLSTM <hidden_size = 4> (x, w, r, , , , , , s, z, s, z)", ROWS,
     {"w": np.zeros((1, 8, 16), np.uint8), "r": np.zeros((1, 4, 16), np.uint8), "s": np.ones(1, np.float32),
      "z": np.zeros(1, np.uint8)}),
    ("y = Attention <q_num_heads = 4, kv_num_heads = 2> (x, k, k)", TOKENS, {"k": zeros(2, 7, 8)}),
    ("y = Attention (x, x, x)", IMAGE, {}),
    ("y, a, b = com.microsoft.GroupQueryAttention <num_heads = 2, kv_num_heads = 1> (x, k, k, , , last, total)", TOKENS,
     {"k": zeros(2, 5, 8), "last": np.array([4, 4], np.int32), "total": np.array(5, np.int32)}),
    # Shapes
    ("y = Flatten (x)", IMAGE, {}),
    ("y = Flatten <axis = -1> (x)", IMAGE, {}),
    ("y = Reshape (x, to)", ROWS, {"to": ints(0, -1, 2, 4)}),
    ("s = Shape (x) a = Slice (s, zero, one) b = Concat <axis = 0> (a, minus) y = Reshape (x, b)", ROWS,
     ZERO | ONE | MINUS),
    ("s = Shape (x) p = ReduceProd <keepdims = 1> (s) y = Reshape (x, p)", ROWS, {}),
    ("s = Size (x) u = Unsqueeze (s, zero) y = Reshape (x, u)", ROWS, ZERO),
    ("y = Squeeze (x)", {"x": (3, 4)}, {}),
    ("u = Unsqueeze (x, axes) y = Squeeze (u, zero)", ROWS, {"axes": ints(0, -1), **ZERO}),
    ("y = Transpose (x)", ROWS, {}),
    ("y = Concat <axis = -1> (x, x, w)", ROWS, {"w": zeros(3, 6, 2)}),
    ("a, y = Split <axis = 1> (x)", ROWS, {}),
    ("a, y = Split <axis = 1> (x, parts)", ROWS, {"parts": ints(2, 4)}),
    ("y = Slice (x, start, end, axes, steps)", ROWS,
     {"start": ints(1, -1), "end": ints(-1, -(1 << 60)), "axes": ints(1, 2), "steps": ints(2, -3)}),
    ("y = Slice (x, start, end)", ROWS, {"start": ints(-100, 1), "end": ints(1 << 62, 4)}),
    ("y = Gather <axis = 1> (x, i)", ROWS, {"i": np.zeros((2, 2), np.int64)}),
    ("y = GatherND (x, i)", ROWS, {"i": np.zeros((4, 2), np.int64)}),
    ("y = GatherElements <axis = 1> (x, i)", ROWS, {"i": np.zeros((3, 2, 8), np.int64)}),
    ("s = Shape (x) y = Expand (w, s)", ROWS, {"w": zeros(6, 1)}),
    ("y = Tile (x, n)", ROWS, {"n": ints(1, 2, 3)}),
    ("y = Pad (x, p)", ROWS, {"p": ints(0, 1, 2, 0, 3, 4)}),
    ("y = Resize (x, , scales)", IMAGE, {"scales": np.array([1, 1, 1.5, 0.7], np.float32)}),
    ("y = Resize (x, , , to)", IMAGE, {"to": ints(2, 8, 5, 7)}),
    ("y = DepthToSpace <blocksize = 2> (x)", IMAGE, {}),
    ("y = SpaceToDepth <blocksize = 4> (x)", IMAGE, {}),
    ("y = GlobalAveragePool (x)", IMAGE, {}),
    ("y = ReduceMean <axes = [-1], keepdims = 0> (x)", ROWS, {}),
    ("y = ReduceSum (x)", ROWS, {}),
    ("y = ArgMax <axis = 1, keepdims = 0> (x)", ROWS, {}),
    ("y, i = TopK (x, two)", ROWS, {"two": ints(2)}),
    ("i = Cast <to = 7> (x) y = OneHot <axis = 1> (i, depth, both)", ROWS,
     {"depth": np.array(5, np.int64), "both": zeros(2)}),
    ("y = NonZero (x)", ROWS, {}),
    ("y = GridSample (x, g)", IMAGE, {"g": zeros(2, 3, 7, 2)}),
    ("y, s, z = DynamicQuantizeLinear (x)", ROWS, {}),
    ("a, y, z = DynamicQuantizeLinear (x)", ROWS, {}),
    # Elements
    ("y = Add (x, w)", ROWS, {"w": zeros(6, 1)}),
    ("c = Greater (x, w) y = Where (c, x, w)", ROWS, {"w": zeros(2, 3, 6, 1)[:1]}),
    ("s = Shape (x) y = ConstantOfShape (s)", ROWS, {}),
    (f"{MIXED} d = Div (f, two) g = Floor (d) i = Cast <to = 7> (g) y = ConstantOfShape (i)", IMAGE,
     {"two": np.array([3, 7], np.float32)}),
    (f"{MIXED} d = Mul (f, two) g = Ceil (d) i = Cast <to = 7> (g) y = ConstantOfShape (i)", IMAGE,
     {"two": np.array([0.3, 0.7], np.float32)}),
    ("h = Shape <start = 2> (x) d = Div (h, by) m = Mod (h, by) a = Sub (d, m) b = Abs (a) y = ConstantOfShape (b)",
     IMAGE, {"by": ints(5, 7)}),
    ("h = Shape <start = 2> (x) a = Min (h, by) b = Max (a, one) n = Neg (b) q = Mul (n, n) y = ConstantOfShape (q)",
     IMAGE, {"by": ints(5, 700), **ONE}),
    ("h = Shape (x) e = Equal (h, minus) w = Where (e, one, h) y = ConstantOfShape (w)", IMAGE,
     ONE | MINUS),
    ("h = Shape (x) n = Gather (h, two) y = Range (nought, n, three)", IMAGE,
     {"two": np.array(2, np.int64), "nought": np.array(0, np.int64), "three": np.array(3, np.int64)}),
    ("r = Range (nought, n, three) y = ConstantOfShape (r)", IMAGE,
     {"n": np.array(7, np.int64), "nought": np.array(1, np.int64), "three": np.array(3, np.int64)}),
]  # fmt: skip


def actual(proto: onnx.ModelProto, feeds: Mapping[str, Array]) -> Shape:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    shape: Shape = np.asarray(session.run(["y"], dict(feeds))[0]).shape
    return shape


def said(proto: onnx.ModelProto, sizes: Mapping[str, Shape]) -> tuple[Size, ...] | None:
    """The shape of `y` by the table, with all sizes of the inputs put in at the end."""
    walk, names = ShapeWalk(bodies(proto)), {k: tuple(f"{k}{i}" for i in range(len(v))) for k, v in sizes.items()}
    known = walk.run(symbolic([TensorSpec(k, "float32", v) for k, v in names.items()], walk.sizes)).look_up("y")
    values = {n: np.array(s) for k, v in names.items() for n, s in zip(v, sizes[k], strict=True)}
    broken = [c for c in walk.sizes.conditions.values() if not evaluate(steps_to(c, {}), values, {}).all()]
    assert not broken, "what ONNX Runtime runs satisfies all conditions"
    if known.shape is None:
        return None
    return tuple(evaluate(steps_to(s, {}), values, {}).item() if isinstance(s, Expression) else s for s in known.shape)


@pytest.mark.parametrize(("body", "sizes", "constants"), CASES, ids=[body[-60:] for body, *_ in CASES])
def test_shapes(body: str, sizes: Mapping[str, Shape], constants: Mapping[str, Array]) -> None:
    declared = ", ".join(f"float[{', '.join(f'{k}{i}' for i in range(len(v)))}] {k}" for k, v in sizes.items())
    opset, ir = (23, 10) if "= Attention" in body else (17, 8)
    proto = model(
        body, x=declared, y="float y", domains=', "com.microsoft" : 1', constants=constants, opset=opset, ir=ir
    )
    kinds = {"ArgMax": 7, "NonZero": 7, "Range": 7, "MatMulInteger": 6}
    last = next((n.op_type for n in proto.graph.node if "y" in n.output), "")
    proto.graph.output[0].type.tensor_type.elem_type = kinds.get(last, 2 if body.startswith("y, s, z") else 1)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    found = said(proto, sizes)
    expected = actual(proto, {name: np.ones(shape, np.float32) for name, shape in sizes.items()})
    if last in ("NonZero", "GatherBlockQuantized"):  # as many as there are, or as the type of the codes says
        assert found == (*expected[:-1], None)
    else:
        assert found == expected


def test_every_function_of_the_table_has_a_case() -> None:
    text = " ".join(body for body, *_ in CASES) + " Relu ( Identity ("
    met = {function for name, function in OPERATORS.items() if re.search(rf"(?<![a-z]){name} [(<]", text)}
    met.add(OPERATORS["com.microsoft:Attention"])
    assert [name for name, function in OPERATORS.items() if function not in met] == []


UNARY = sorted(name for name, function in OPERATORS.items() if function is OPERATORS["Relu"])


def test_what_does_not_depend_on_how_many_there_are_keeps_shapes() -> None:
    """Operators of one input that ONNX Runtime knows under these names; the others are of the same function."""
    seen = 0
    for name in UNARY:
        proto = model(f"y = {name} (x)", x="float[a, b, c] x", y="float[a, b, c] y", opset=20)
        try:
            assert actual(proto, {"x": np.ones((2, 4, 8), np.float32)}) == (2, 4, 8), name
        except (errors.Fail, errors.InvalidGraph, errors.NotImplemented):
            continue
        assert said(proto, {"x": (2, 4, 8)}) == (2, 4, 8), name
        seen += 1
    assert seen > 20
