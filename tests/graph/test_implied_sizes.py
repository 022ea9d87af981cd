"""Sizes of open inputs that a graph implies, what it leaves open, and that made-up inputs of these sizes run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxfq.feeds import generate
from onnxfq.graph import Graph
from onnxfq.graph import shape_walk as graph_shape_walk
from onnxfq.session import Session
from support import models
from support.models import Array, model

MICROSOFT = ', "com.microsoft" : 1'
Fitting = tuple[int | None, ...]


def zeros(*shape: int) -> Array:
    return np.zeros(shape, np.float32)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def fitting(proto: onnx.ModelProto, folder: Path) -> dict[str, Fitting]:
    """Of the inputs for which there is one; the model must run on inputs made up by it."""
    path = models.write(proto, folder / "in.onnx")
    signature = Graph.load(path).signature
    session = Session(path)
    for feed in generate(signature, samples=2, seq_len=32, seed=0):
        session.run(feed)
    return {spec.name: spec.fitting for spec in signature.inputs if spec.fitting}


PIXELS = "float[batch, channels, height, width] x"
SOUND = "float[batch, samples] x"
WINDOWS = "c = Unsqueeze (x, one)" + "".join(
    f" {new} = Conv <strides = [5]> ({old}, {k})"
    for old, new, k in (("c", "d", "k0"), ("d", "e", "k"), ("e", "y", "k"))
)
PATCHES = """
    p = Conv <strides = [4, 4]> (x, k)
    s = Shape (p)
    b = Slice (s, zero, two)
    flat = Concat <axis = 0> (b, minus)
    f = Reshape (p, flat)
    t = Transpose <perm = [0, 2, 1]> (f)
    n = Gather (s, zero)
    like = Concat <axis = 0> (n, minus, minus)
    ones = ConstantOfShape <value = int64[1] {1}> (three)
    other = Mul (ones, minus)
    equal = Equal (like, other)
    wanted = Where (equal, ones, like)
    first = Expand (cls, wanted)
    all = Concat <axis = 1> (first, t)
    y = Add (all, positions)
"""
PARTS = {"zero": ints(0), "one": ints(1), "two": ints(2), "three": ints(3), "minus": ints(-1)}


def test_channels_and_sides_of_an_image_with_a_table_of_positions(tmp_path: Path) -> None:
    """As exporters write a ViT: 64 patches of 4 × 4 and a token that comes first."""
    proto = model(
        PATCHES, x=PIXELS, y="float[a, b, c] y", constants=PARTS, k=zeros(8, 3, 4, 4), cls=zeros(1, 1, 8),
        positions=zeros(1, 65, 8),
    )  # fmt: skip
    assert fitting(proto, tmp_path) == {"x": (None, 3, 32, 32)}


@pytest.mark.parametrize(
    ("body", "x", "constants", "expected"),
    [
        ("y = Conv (x, k)", PIXELS, {"k": zeros(8, 1, 3, 3)}, (None, 1, None, None)),
        ("y = Conv <group = 4> (x, k)", PIXELS, {"k": zeros(8, 2, 3, 3)}, (None, 8, None, None)),
        ("y = ConvTranspose (x, k)", PIXELS, {"k": zeros(5, 8, 3, 3)}, (None, 5, None, None)),
        # 36 patches of 16 × 16, and patches of 14 × 14, whose remainder at the border is left out.
        ("p = Conv <strides = [16, 16]> (x, k) f = Reshape (p, flat) t = Transpose <perm = [0, 2, 1]> (f) "
         "y = Add (t, pos)", PIXELS, {"k": zeros(8, 3, 16, 16), "flat": ints(0, 8, -1), "pos": zeros(1, 36, 8)},
         (None, 3, 96, 96)),
        ("p = Conv <strides = [14, 14]> (x, k) f = Reshape (p, flat) t = Transpose <perm = [0, 2, 1]> (f) "
         "y = Add (t, pos)", PIXELS, {"k": zeros(8, 3, 14, 14), "flat": ints(0, 8, -1), "pos": zeros(1, 25, 8)},
         (None, 3, 70, 70)),
        # LeNet's 28 × 28: two convolutions and two poolings leave 4 × 4 · 16 of them.
        ("a = Conv (x, k) b = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a) c = Conv (b, l) "
         "d = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c) e = Flatten (d) y = Gemm <transB = 1> (e, w)",
         PIXELS, {"k": zeros(6, 1, 5, 5), "l": zeros(16, 6, 5, 5), "w": zeros(120, 256)}, (None, 1, 28, 28)),
        # Sides from 200 to 249 leave 16 patches of 50 × 50: what is usual is taken.
        ("p = Conv <strides = [50, 50]> (x, k) f = Flatten (p) y = Gemm (f, w)", "float[1, 1, h, w] x",
         {"k": zeros(1, 1, 50, 50), "w": zeros(16, 2)}, (None, None, 224, 224)),
        ("r = Reshape (x, flat) y = MatMul (r, w)", "float[batch, length, width] x",
         {"flat": ints(0, 0, 4, 16), "w": zeros(16, 5)}, (None, None, 64)),
        ("y = MatMul (x, w)", "float[batch, length, width] x", {"w": zeros(24, 5)}, (None, None, 24)),
        ("t = Transpose <perm = [0, 2, 1]> (x) y = MatMul (t, w)", "float[batch, width, length] x",
         {"w": zeros(24, 5)}, (None, 24, None)),
        ("m = MatMul (x, w) y = Add (m, table)", "float[batch, length, width] x",
         {"w": zeros(24, 5), "table": zeros(1, 50, 5)}, (None, 50, 24)),
        ("y = LayerNormalization (x, scale)", "float[batch, length, width] x", {"scale": zeros(48)}, (None, None, 48)),
        ("y = InstanceNormalization (x, scale, scale)", "float[batch, width, length] x", {"scale": zeros(6)},
         (None, 6, None)),
        ("y = Expand (x, wanted)", "float[batch, width] x", {"wanted": ints(2, 1, 7)}, (None, 7)),
        ("y = Concat <axis = 1> (x, table)", "float[batch, length, width] x", {"table": zeros(1, 2, 9)}, (1, None, 9)),
        ('y = Einsum <equation = "bth,hk->btk"> (x, w)', "float[batch, length, width] x", {"w": zeros(24, 5)},
         (None, None, 24)),
        # A traced number of rows.
        ("y = Reshape (x, wanted)", "float[rows, 6] x", {"wanted": ints(4, 12)}, (8, None)),
        # The least length that leaves anything is 10 + 5 · (9 + 5 · 9) = 280.
        (WINDOWS, SOUND, {"one": ints(1), "k0": zeros(4, 1, 10), "k": zeros(4, 4, 10)}, (None, 16 * 280)),
        # Seven times halved and doubled: 224 is no multiple of 128.
        ("d = SpaceToDepth <blocksize = 128> (x) y = DepthToSpace <blocksize = 128> (d)", "float[b, 3, h, w] x", {},
         (None, None, 256, 256)),
        ("s = Shape <start = 1, end = 2> (x) t = Slice (table, zero, s, one) y = Add (x, t)",
         "float[batch, length, 4] x", {"table": zeros(1, 20, 4), "zero": ints(0), "one": ints(1)}, (None, 20, None)),
    ],
    ids=["channels", "groups", "transposed", "patches", "uneven patches", "flattened", "usual", "reshape", "matmul",
         "transpose", "positions", "layer norm", "instance norm", "expand", "concat", "einsum", "rows", "sound",
         "multiples", "few positions"],
)  # fmt: skip
def test_sizes(body: str, x: str, constants: dict[str, Array], expected: Fitting, tmp_path: Path) -> None:
    proto = model(body, x=x, y="float y", constants=constants)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    assert fitting(proto, tmp_path) == {"x": expected}


def test_states_of_an_lstm(tmp_path: Path) -> None:
    proto = model(
        "y, h, c = LSTM <hidden_size = 8> (x, w, r, , , h0, c0)",
        x="float[length, batch, width] x, float[layers, batch, hidden] h0, float[layers, batch, memory] c0",
        y="float[a, b, c, d] y", w=zeros(1, 32, 6), r=zeros(1, 32, 8),
    )  # fmt: skip
    assert fitting(proto, tmp_path) == {"x": (None, None, 6), "h0": (1, None, 8), "c0": (1, None, 8)}


CACHE = "float[batch, heads, past, cache_dim]"
CACHED = f"float[batch, length, 32] x, {CACHE} past_key, {CACHE} past_value"
PROJECTED = "q = MatMul (x, wq) k = MatMul (x, wk) v = MatMul (x, wk)"


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        (f"{PROJECTED} y, s, t = com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2> "
         "(q, k, v, past_key, past_value, last, total)", {"wq": zeros(32, 64), "wk": zeros(32, 32)}),
        ("p = MatMul (x, packed) y, s, t = com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2> "
         "(p, , , past_key, past_value, last, total)", {"packed": zeros(32, 128)}),
        (f"{PROJECTED} y, s, t = com.microsoft.MultiHeadAttention <num_heads = 2> "
         "(q, k, v, , , , past_key, past_value)", {"wq": zeros(32, 32), "wk": zeros(32, 32)}),
        (f"{PROJECTED} r = Reshape (k, split) t = Transpose <perm = [0, 2, 1, 3]> (r) "
         "s = Concat <axis = 2> (past_key, t) y = MatMul (past_value, square)",
         {"wq": zeros(32, 64), "wk": zeros(32, 32), "split": ints(0, 0, 2, 16), "square": zeros(16, 16)}),
    ],
    ids=["grouped", "packed", "multi-head", "plain"],
)  # fmt: skip
def test_heads_of_a_cache(body: str, constants: dict[str, Array], tmp_path: Path) -> None:
    proto = model(body, x=CACHED, y="float[a, b, c] y", domains=MICROSOFT, constants=constants,
                  last=np.array([31], np.int32), total=np.array(32, np.int32))  # fmt: skip
    if "Concat" in body:
        proto.graph.output[0].type.tensor_type.shape.dim.add(dim_param="d")
    assert fitting(proto, tmp_path) == dict.fromkeys(("past_key", "past_value"), (None, 2, None, 16))


def test_a_cache_that_is_a_ring_is_as_long_as_the_window(tmp_path: Path) -> None:
    attention = "num_heads = 4, kv_num_heads = 2, local_window_size = 24"
    for ring, length in ((0, None), (1, 24)):
        body = (
            f"{PROJECTED} y, s, t = com.microsoft.GroupQueryAttention <{attention}, sliding_window_cache = {ring}> "
            "(q, k, v, past_key, past_value, last, total)"
        )
        proto = model(body, x=CACHED, y="float[a, b, c] y", domains=MICROSOFT, wq=zeros(32, 64), wk=zeros(32, 32),
                      constants={"last": np.array([31], np.int32), "total": np.array(32, np.int32)})  # fmt: skip
        assert fitting(proto, tmp_path) == dict.fromkeys(("past_key", "past_value"), (None, 2, length, 16))


@pytest.mark.parametrize(
    ("body", "x", "constants"),
    [
        ("y = Relu (x)", PIXELS, {}),
        ("y = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, k)", "float[b, 3, h, w] x", {"k": zeros(8, 3, 3, 3)}),
        # As many positions as tokens, of a table for 512.
        ("s = Shape <start = 1, end = 2> (x) t = Slice (table, zero, s, one) y = Add (x, t)",
         "float[batch, length, 4] x", {"table": zeros(1, 512, 4), "zero": ints(0), "one": ints(1)}),
        ("r = Reshape (x, split) y = Relu (r)", "float[batch, length, 64] x", {"split": ints(0, -1, 4, 16)}),
        # A table of positions that is resized to as many patches as there are.
        ("p = Conv <strides = [4, 4]> (x, k) s = Shape (p) r = Resize (table, , , s) y = Add (p, r)",
         "float[1, 3, h, w] x", {"k": zeros(8, 3, 4, 4), "table": zeros(1, 8, 5, 5)}),
        ("y = Add (x, one)", "float[batch, width] x", {"one": zeros(1, 1)}),
    ],
    ids=["any", "halves", "as many positions", "any length", "interpolated", "broadcast"],
)  # fmt: skip
def test_what_is_left_open(body: str, x: str, constants: dict[str, Array], tmp_path: Path) -> None:
    proto = model(body, x=x, y="float y", constants=constants)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    assert fitting(proto, tmp_path) == {}


@pytest.mark.parametrize("condition", ["Equal (s, one)", "Greater (s, hundred)"])
def test_a_branch_that_depends_on_sizes_says_nothing_of_them(condition: str, tmp_path: Path) -> None:
    body = f"""
        s = Shape <start = 1, end = 2> (x)
        c = {condition}
        t = If (c) <
            then_branch = yes () => (float[n] u) {{ q = Squeeze (x, one) u = Add (q, five) }},
            else_branch = no () => (float[n, m] v) {{ v = Identity (x) }}
        >
        y = Relu (t)
    """
    proto = model(body, x="float[batch, length] x", y="float y", one=ints(1), five=zeros(5), hundred=ints(100))
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    assert fitting(proto, tmp_path) == {}


def test_branches_that_the_caller_chooses_both_count(tmp_path: Path) -> None:
    body = """
        y = If (c) <
            then_branch = yes () => (float[n, 5] u) { u = MatMul (x, w) },
            else_branch = no () => (float[n, 5] v) { r = MatMul (z, w2)  v = Add (r, five) }
        >
    """
    proto = model(
        body, x="float[batch, width] x, float[batch, depth] z, bool c", y="float[n, 5] y", w=zeros(24, 5),
        w2=zeros(7, 5), five=zeros(5),
    )  # fmt: skip
    assert fitting(proto, tmp_path) == {"x": (None, 24), "z": (None, 7)}


def test_functions_are_looked_into(tmp_path: Path) -> None:
    function = '<domain: "own", opset_import: ["" : 17]> Layer (a, b) => (c) { d = MatMul (a, b) c = Relu (d) }'
    proto = model("y = own.Layer (x, w)", x="float[batch, width] x", y="float[batch, 5] y", w=zeros(24, 5),
                  domains=', "own" : 1', functions=function)  # fmt: skip
    assert fitting(proto, tmp_path) == {"x": (None, 24)}


def test_one_name_is_one_size(tmp_path: Path) -> None:
    proto = model("y = MatMul (x, w) v = Relu (z)", x="float[batch, width] x, float[width, batch] z",
                  y="float[batch, 5] y, float[width, batch] v", w=zeros(24, 5))  # fmt: skip
    assert fitting(proto, tmp_path) == {"x": (None, 24), "z": (24, None)}


@pytest.mark.parametrize("size", ["?", -1, None])
def test_sizes_without_a_name_are_sizes_of_their_own(size: str | int | None, tmp_path: Path) -> None:
    proto = model("t = Transpose (x) y = MatMul (t, w)", x="float[a, b] x", y="float[c, 5] y", w=zeros(24, 5))
    for dim in proto.graph.input[0].type.tensor_type.shape.dim:
        dim.Clear()
        if isinstance(size, str):
            dim.dim_param = size
        elif size is not None:
            dim.dim_value = size
    assert fitting(proto, tmp_path) == {"x": (24, None)}
    (spec,) = Graph.load(tmp_path / "in.onnx").signature.inputs
    assert spec.shape == (None, None)


def test_conditions_that_contradict_those_before_them_count_for_nothing(tmp_path: Path) -> None:
    body = "y = MatMul (x, w) z = MatMul (x, v) t = Add (y, table)"
    proto = model(body, x="float[length, width] x", y="float[a, b] t, float[c, d] z", w=zeros(24, 5), v=zeros(7, 5),
                  table=zeros(50, 5))  # fmt: skip
    (spec,) = Graph.load(models.write(proto, tmp_path / "in.onnx")).signature.inputs
    assert spec.fitting == (50, 24)


def test_functions_of_functions_are_followed_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each called the one before it twice."""
    steps = 0
    node = graph_shape_walk.ShapeWalk._node

    def counted(self: graph_shape_walk.ShapeWalk, *arguments: object) -> object:
        nonlocal steps
        steps += 1
        return node(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(graph_shape_walk.ShapeWalk, "_node", counted)
    monkeypatch.setattr(graph_shape_walk, "_MOST_NODES", 500)
    texts = ['<domain: "own", opset_import: ["" : 17]> F0 (a) => (c) { c = Relu (a) }']
    imports = '<domain: "own", opset_import: ["" : 17, "own" : 1]>'
    texts += [f"{imports} F{i} (a) => (c) {{ b = own.F{i - 1} (a) c = own.F{i - 1} (b) }}" for i in range(1, 12)]
    proto = model("m = MatMul (x, w) y = own.F11 (m)", x="float[batch, width] x", y="float[batch, 5] y", w=zeros(24, 5),
                  domains=', "own" : 1', functions="\n".join(texts))  # fmt: skip
    (spec,) = Graph.load(models.write(proto, tmp_path / "in.onnx")).signature.inputs
    assert spec.fitting == (None, 24)
    assert steps == 500
