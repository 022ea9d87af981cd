"""Models for an early operator set are written for a later one, compute exactly the same, or are refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.defs
import pytest

from onnxfq.errors import ModelError
from onnxfq.graph import Graph, TensorFile, raise_opset, save
from onnxfq.graph.operator_changes import OLDEST_OPSET, Surroundings, Unchangeable, rewritten
from support.models import Array, branch, find, model, normal, run, whole, write

WANTED = tuple(version for version in (21, 25) if version <= onnx.defs.onnx_opset_version())
knows_25 = pytest.mark.skipif(25 not in WANTED, reason="this onnx does not know operator set 25")
X, VECTOR = "float[2, 3, 4] x", "float[N] y"
IMAGE = "float[1, 2, 6, 6] x"
COORDINATES = np.linspace(-0.9, 0.9, 32, dtype=np.float32).reshape(1, 4, 4, 2)
SIGNAL = np.hanning(32).astype(np.float32).reshape(1, 32, 1)

# (operator set, body, input, output, constants): every rewriter, and what only gained something.
CASES: dict[str, tuple[int, str, str, str, dict[str, Array]]] = {
    "ReduceMean": (17, "y = ReduceMean <axes = [-1], keepdims = 0> (x)", X, "float[2, 3] y", {}),
    "ReduceMax of all": (13, "y = ReduceMax <keepdims = 1> (x)", X, "float[1, 1, 1] y", {}),
    "ReduceL2": (11, "y = ReduceL2 <axes = [0, 2]> (x)", X, "float[1, 3, 1] y", {}),
    "ReduceSum": (12, "y = ReduceSum <axes = [1]> (x)", X, "float[2, 1, 4] y", {}),
    "ReduceSum of an input": (13, "y = ReduceSum (x, axes)", X, "float[2, 1, 4] y", {"axes": whole(1)}),
    "Unsqueeze and Squeeze": (
        11, "u = Unsqueeze <axes = [0, 4]> (x)  y = Squeeze <axes = [0]> (u)", X, "float[2, 3, 4, 1] y", {}),
    "Squeeze of all": (12, "u = Unsqueeze <axes = [1]> (x)  y = Squeeze (u)", X, "float[2, 3, 4] y", {}),
    "Split in parts": (17, "a, b = Split <axis = 2> (x)  y = Concat <axis = 2> (b, a)", X, "float[2, 3, 4] y", {}),
    "Split by an attribute": (
        11, "a, b = Split <axis = 2, split = [1, 3]> (x)  y = Concat <axis = 2> (b, a)", X, "float[2, 3, 4] y", {}),
    "Split by an input": (
        13, "a, b = Split <axis = 2> (x, sizes)  y = Concat <axis = 2> (b, a)", X, "float[2, 3, 4] y",
        {"sizes": whole(1, 3)}),
    "Softmax of the last": (11, "y = Softmax <axis = 2> (x)", X, "float[2, 3, 4] y", {}),
    "Softmax of several": (11, "y = Softmax <axis = 1> (x)", X, "float[2, 3, 4] y", {}),
    "Softmax as it usually is": (12, "y = Softmax (x)", X, "float[2, 3, 4] y", {}),
    "LogSoftmax of an unknown rank": (
        11, "r = Reshape (x, s)  y = LogSoftmax <axis = 1> (r)", "float[2, 3, 4] x, int64[R] s", "float[N] y", {}),
    "Dropout": (11, "y = Dropout <ratio = 0.4> (x)", X, "float[2, 3, 4] y", {}),
    "Resize by sizes": (
        11, 'y = Resize <mode = "linear"> (x, roi, scales, sizes)', IMAGE, "float[1, 2, 9, 9] y",
        {"roi": np.zeros(0, np.float32), "scales": np.zeros(0, np.float32), "sizes": whole(1, 2, 9, 9)}),
    "Resize by scales": (
        11, 'y = Resize <mode = "nearest"> (x, roi, scales)', IMAGE, "float[1, 2, 12, 12] y",
        {"roi": np.zeros(0, np.float32), "scales": np.array([1, 1, 2, 2], np.float32)}),
    "GridSample": (16, "y = GridSample (x, g)", IMAGE, "float[1, 2, 4, 4] y", {"g": COORDINATES}),
    "GridSample, bicubic": (
        16, 'y = GridSample <mode = "bicubic"> (x, g)', IMAGE, "float[1, 2, 4, 4] y", {"g": COORDINATES}),
    "RoiAlign": (
        11, "y = RoiAlign <output_height = 2, output_width = 2> (x, boxes, which)", IMAGE, "float[1, 2, 2, 2] y",
        {"boxes": np.array([[0.5, 0.5, 4.2, 3.9]], np.float32), "which": whole(0)}),
    "DFT": (17, "y = DFT <axis = 1> (signal)  z = Identity (x)", X, "float[1, 32, 2] y, float[2, 3, 4] z",
            {"signal": SIGNAL}),
    "DFT as it usually is": (17, "y = DFT (signal)  z = Identity (x)", X, "float[1, 32, 2] y, float[2, 3, 4] z",
                             {"signal": SIGNAL}),
    "BatchNormalization": (
        11, "y = BatchNormalization (x, s, b, m, v)", IMAGE, "float[1, 2, 6, 6] y",
        {name: np.array([1.5, 0.5], np.float32) for name in "sbmv"}),
    "pooling and padding": (
        11, 'p = AveragePool <kernel_shape = [2, 2], ceil_mode = 1> (x)  y = Pad <mode = "edge"> (p, pads)', IMAGE,
        "float[1, 2, 5, 5] y", {"pads": whole(0, 0, 1, 1, 0, 0, 1, 1)}),
    "shapes": (
        11, "s = Shape (x)  c = Cast <to = 1> (s)  d = Cast <to = 7> (c)  y = Reshape (x, d)", X, "float[2, 3, 4] y",
        {}),
    "indices": (
        12, "a = ArgMax <axis = 2, keepdims = 0> (x)  y = Cast <to = 1> (a)", X, "float[2, 3] y", {}),
    "codes": (
        13, "q = QuantizeLinear (x, s, z)  y = DequantizeLinear (q, s, z)", X, "float[2, 3, 4] y",
        {"s": np.array(0.1, np.float32), "z": np.array(3, np.uint8)}),
}  # fmt: skip


def raised(source: Path, output: Path, version: int) -> onnx.ModelProto:
    """The model for a later operator set."""
    graph = Graph.load(source)
    assert raise_opset(graph, version, "This test")
    with TensorFile(output.with_suffix(".tensor_file")) as tensor_file:
        save(graph, output, tensor_file)
    onnx.checker.check_model(str(output))
    return onnx.load(output)


@pytest.mark.parametrize("version", WANTED)
@pytest.mark.parametrize("case", CASES)
def test_it_computes_the_same(case: str, version: int, tmp_path: Path) -> None:
    opset, body, x, y, constants = CASES[case]
    source = write(model(body, x=x, y=y, opset=opset, constants=constants), tmp_path / "in.onnx")
    shape = (1, 2, 6, 6) if x == IMAGE else (2, 3, 4)
    feed = {"x": normal(*shape), **({"s": whole(4, 3, 2)} if "int64[R] s" in x else {})}
    if case == "RoiAlign" and version > 21:
        with pytest.raises(ModelError, match="ONNX Runtime does not run RoiAlign of operator set 22"):
            raise_opset(Graph.load(source), version, "This test")
        return
    written = raised(source, tmp_path / "out.onnx", version)
    assert [entry.version for entry in written.opset_import] == [version]
    before, after = run(source, feed), run(tmp_path / "out.onnx", feed)
    for name, wanted in before.items():
        np.testing.assert_allclose(after[name], wanted, rtol=1e-5, atol=1e-6)  # pools add up in another order


def test_a_file_for_a_later_set_stays_as_it_is(tmp_path: Path) -> None:
    source = write(model("y = Relu (x)", x=X, y="float[2, 3, 4] y", opset=22, ir=10), tmp_path / "in.onnx")
    graph = Graph.load(source)
    before = graph.model.SerializeToString()
    assert not raise_opset(graph, 21, "This test")
    assert graph.model.SerializeToString() == before


def test_branches_and_functions_are_written_anew_too(tmp_path: Path) -> None:
    body = """
        c = Constant <value = bool {1}> ()
        p = If (c) <
            then_branch = t () => (float[2, 3, 1] a) { a = ReduceMean <axes = [-1]> (x) },
            else_branch = e () => (float[2, 3, 1] b) { b = ReduceMax <axes = [-1]> (x) }>
        y = local.f (p)
    """
    function = (
        '<opset_import: ["" : 13], domain: "local"> f (v) => (w) { w = ReduceMin <axes = [1], keepdims = 0> (v) }'
    )
    proto = model(body, x=X, y="float[2, 1] y", opset=13, domains=', "local" : 1', functions=function)
    source = write(proto, tmp_path / "in.onnx")
    written = raised(source, tmp_path / "out.onnx", 21)
    assert [entry.version for entry in written.functions[0].opset_import if not entry.domain] == [21]
    choice = find(written.graph.node, "If")
    for name in ("then_branch", "else_branch"):
        assert not branch(choice, name).node[-1].attribute
    feed = {"x": normal(2, 3, 4)}
    np.testing.assert_array_equal(run(tmp_path / "out.onnx", feed)["y"], run(source, feed)["y"])


@knows_25
def test_every_operator_that_ever_changed_is_known() -> None:
    """What is in no table is refused: that is how a change that nobody looked at is noticed."""

    def nothing(*_: object) -> str:
        return ""

    around = Surroundings(3, lambda _: False, nothing, nothing)
    refused = set()
    for name in {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}:
        inputs = ["x", "a", "b"][: onnx.defs.get_schema(name).max_input]
        proto = onnx.helper.make_node(name, inputs, ["y"])
        graph = onnx.helper.make_graph([proto], "g", [], [])
        node = next(Graph(Path("none"), onnx.helper.make_model(graph), {}).nodes())
        for old in range(OLDEST_OPSET, WANTED[-1]):
            for new in WANTED:
                if old < new and onnx.defs.has(name, old, ""):
                    found = rewritten(node, old, new, around)
                    refused |= {name} if isinstance(found, Unchangeable) else set()
    assert refused == {"Attention", "Bernoulli", "GroupNormalization", "RoiAlign", "Scatter", "Upsample"}


REFUSED = {
    "old": (9, "y = Relu (x)", "only operator sets from 11 on are converted"),
    "changed": (23, "y = Attention (x, x, x)", "Attention changed its meaning"),
    "gone": (11, 'y = Resize <coordinate_transformation_mode = "tf_half_pixel_for_nn"> (x, s, t)',
             "Resize knows tf_half_pixel_for_nn no more"),
    "training": (11, "y, a, b, c, d = BatchNormalization (x, s, s, s, s)",
                 "BatchNormalization has outputs of training"),
    "both": (11, "y = Resize (x, s, t, u)", "Resize has both scales and sizes"),
}  # fmt: skip


@knows_25
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_written_anew_is_refused(case: str, tmp_path: Path) -> None:
    opset, body, reason = REFUSED[case]
    constants = {"s": np.ones(4, np.float32), "t": np.ones(4, np.float32), "u": whole(1, 2, 6, 6)}
    used = {name: array for name, array in constants.items() if f"{name}," in body or f"{name})" in body}
    source = write(
        model(body, x=IMAGE, y="float[A, B, C, D] y", opset=opset, ir=11, constants=used), tmp_path / "in.onnx"
    )
    with pytest.raises(ModelError, match=reason) as error:
        raise_opset(Graph.load(source), 25, "Blocks")
    assert "Blocks needs ONNX's operator set 25" in str(error.value)
    assert f"from {opset}" in str(error.value)
    assert "Export the model with operator set 25, or choose another format, such as matmulnbits." in str(error.value)


def test_an_attribute_that_callers_choose_is_refused(tmp_path: Path) -> None:
    function = (
        '<opset_import: ["" : 17], domain: "local"> f <axes> (v) => (w) { w = ReduceMean <axes : ints = @axes> (v) }'
    )
    body, domains = "y = local.f <axes = [1]> (x)", ', "local" : 1'
    proto = model(body, x=X, y="float[2, 1, 4] y", domains=domains, functions=function)
    graph = Graph.load(write(proto, tmp_path / "in.onnx"))
    with pytest.raises(ModelError, match="the caller of a function chooses axes of ReduceMean"):
        raise_opset(graph, 21, "Blocks")


def test_an_onnx_that_does_not_know_the_set_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph.load(write(model("y = Relu (x)", x=X, y="float[2, 3, 4] y"), tmp_path / "in.onnx"))
    monkeypatch.setattr(onnx.defs, "onnx_opset_version", lambda: 23)
    with pytest.raises(ModelError, match=r"knows sets up to 23 only .*pip install -U onnx"):
        raise_opset(graph, 25, "Two bits")
