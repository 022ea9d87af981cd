"""What callers feed and get, and which ids embeddings know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import pytest

from onnxfq.graph import Graph
from onnxfq.signature import Signature, TensorSpec
from support import models
from support.models import Array, model

TABLE = np.zeros((50, 64), np.float32)


def signature(proto: onnx.ModelProto, folder: Path) -> Signature:
    return Graph.load(models.write(proto, folder / "in.onnx")).signature


def vocabulary(body: str, folder: Path, *, external: bool = False, **constants: Array) -> int | None:
    """Of the input `ids` of a model."""
    proto = model(body, x="int64[batch, 3] ids", y="float[batch, 3, 64] y", constants=constants)
    path = folder / "in.onnx"
    path = models.write_external(proto, path) if external else models.write(proto, path)
    (spec,) = Graph.load(path).signature.inputs
    return spec.vocabulary


def test_inputs_and_outputs(tmp_path: Path) -> None:
    body = "z = Identity (x)  y = Identity (b)  v = Add (h, w)"
    x = "float[batch, 7, width] x, bool[1] b, float16[7] h, float16[7] w, double d"
    proto = model(body, x=x, y="float[batch, 7, width] z, bool[1] y, float16[7] v", w=np.zeros(7, np.float16))
    proto.graph.input[0].type.tensor_type.shape.dim[0].ClearField("dim_param")
    found = signature(proto, tmp_path)
    assert found.inputs == (
        TensorSpec("x", "float32", (None, 7, "width")),
        TensorSpec("b", "bool", (1,)),
        TensorSpec("h", "float16", (7,)),
        TensorSpec("d", "float64", ()),
    )
    assert [o.name for o in found.outputs] == ["z", "y", "v"]


def test_values_that_no_array_holds(tmp_path: Path) -> None:
    proto = model("y = SequenceAt (s, i)  t = Identity (words)", x="int64 i, string[2] words", y="string[2] t")
    tensor = onnx.helper.make_tensor_type_proto(1, ["M"])
    proto.graph.input.append(onnx.helper.make_value_info("s", onnx.helper.make_sequence_type_proto(tensor)))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("y", 1, ["M"]))
    kinds = {spec.name: (spec.dtype, spec.shape) for spec in signature(proto, tmp_path).inputs}
    assert kinds == {"i": ("int64", ()), "words": ("string", (2,)), "s": ("sequence", None)}


@pytest.mark.parametrize("external", [False, True], ids=["inline", "external"])
@pytest.mark.parametrize(
    "body",
    [
        "y = Gather (table, ids)",
        "i = Cast <to = 6> (ids)  y = Gather (table, i)",
        "i = Reshape (ids, flat)  g = Gather (table, i)  y = Unsqueeze (g, zero)",
        "t = Identity (table)  y = Gather (t, ids)",
        "y = Gather (table, ids)  i = Identity (ids)  z = Gather (larger, i)",
    ],
)
def test_embeddings(body: str, external: bool, tmp_path: Path) -> None:
    constants = {
        "table": TABLE,
        "larger": np.zeros((99, 64), np.float32),
        "flat": np.array([-1]),
        "zero": np.array([0]),
    }
    assert vocabulary(body, tmp_path, external=external, **constants) == 50


@pytest.mark.parametrize("external", [False, True], ids=["inline", "external"])
def test_an_embedding_stored_as_half(external: bool, tmp_path: Path) -> None:
    body = "t = Cast <to = 1> (table)  y = Gather (t, ids)"
    assert vocabulary(body, tmp_path, external=external, table=TABLE.astype(np.float16)) == 50


def test_a_gather_along_another_axis(tmp_path: Path) -> None:
    assert vocabulary("y = Gather <axis = 1> (table, ids)", tmp_path, table=TABLE.T) == 50
    assert vocabulary("y = Gather <axis = -1> (table, ids)", tmp_path, table=TABLE.T) == 50


def test_what_is_no_embedding(tmp_path: Path) -> None:
    assert vocabulary("y = Gather (row, ids)", tmp_path, row=TABLE[0]) is None
    assert vocabulary("f = Cast <to = 1> (ids)  t = Exp (f)  y = Gather (t, ids)", tmp_path) is None
    assert vocabulary("y = Cast <to = 1> (ids)", tmp_path) is None


def test_an_embedding_in_a_branch(tmp_path: Path) -> None:
    body = """
        y = If (c) <
            then_branch = yes () => (float[3, 64] u) { u = Gather (table, ids) },
            else_branch = no () => (float[3, 64] v) { v = Gather (table, ids) }
        >
    """
    proto = model(body, x="int64[3] ids, bool c", y="float[3, 64] y", table=TABLE)
    assert signature(proto, tmp_path).inputs[0].vocabulary == 50
