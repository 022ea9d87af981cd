"""What is not a quantized weight survives: names, documentation, metadata, types, functions, training information."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import pytest
from blake3 import blake3

from support import models
from support.models import Array, K, N, grid, model, proven

W = grid()


def annotated() -> onnx.ModelProto:
    """A model with something in nearly every field that ONNX has."""
    body = """
        [first] t = Transpose (s)
        [second] a = MatMul (x, t)
        [third] b = Gemm <beta = 2.0> (a, v, bias)
        [fourth] c = local.shift (b)
        [fifth] y = Add (c, other)
    """
    shift = '<domain: "local", opset_import: ["" : 17]> shift (p) => (q) { q = Relu (p) }'
    proto = model(
        body,
        ir=10,
        domains=', "local" : 1, "vendor" : 3',
        functions=shift,
        s=np.ascontiguousarray(W.T),
        v=grid(32, 32),
        bias=np.arange(32, dtype=np.float32),
        other=np.random.default_rng(0).standard_normal((1, 32)).astype(np.float32),
        large=np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32),
    )
    proto.producer_name, proto.producer_version, proto.domain, proto.model_version = "maker", "7.1", "org.example", 12
    proto.doc_string, proto.graph.doc_string, proto.graph.name = "about the model", "about the graph", "named"
    proto.functions[0].doc_string = "about the function"
    for holder, key in ((proto, "author"), (proto.graph, "source"), (proto.functions[0], "origin")):
        holder.metadata_props.add(key=key, value=f"{key}!")
    for node in proto.graph.node:
        node.doc_string = f"about {node.name}"
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=node.name)
    for name, shape in (("t", (K, N)), ("a", ("M", N)), ("b", ("M", N)), ("c", ("M", N))):
        proto.graph.value_info.append(onnx.helper.make_tensor_value_info(name, 1, shape))
    for name in ("s", "other"):
        annotation = proto.graph.quantization_annotation.add(tensor_name=name)
        annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="bias")
    proto.graph.initializer[3].doc_string = "about a tensor"
    proto.graph.input[0].doc_string = "about an input"
    return proto


@pytest.mark.parametrize("external", [False, True], ids=["inline", "external"])
def test_everything_else_is_as_it_was(external: bool, tmp_path: Path) -> None:
    before = annotated()
    path = tmp_path / "in.onnx"
    source = models.write_external(before, path) if external else models.write(before, path)
    outcome = proven(source, tmp_path, targets=2)
    after = outcome.model
    for name in ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string"):
        assert getattr(after, name) == getattr(before, name)
    assert list(after.functions) == list(before.functions)
    for name in ("name", "doc_string", "input", "output", "metadata_props"):
        assert getattr(after.graph, name) == getattr(before.graph, name)
    assert [(o.domain, o.version) for o in after.opset_import] == [
        *((o.domain, o.version) for o in before.opset_import),
        ("com.microsoft", 1),
    ]
    assert [v.name for v in after.graph.value_info] == ["a", "b", "c"]
    assert list(after.graph.value_info) == list(before.graph.value_info)[1:]
    assert [a.tensor_name for a in after.graph.quantization_annotation] == ["other"]


def test_nodes_keep_names_outputs_documentation_and_metadata(tmp_path: Path) -> None:
    before = {n.name: n for n in annotated().graph.node}
    outcome = proven(annotated(), tmp_path, targets=2)
    after = {n.name: n for n in outcome.model.graph.node}
    assert list(after) == ["second", "third", "fourth", "fifth"]
    for name in ("fourth", "fifth"):
        assert after[name] == before[name]
    for name in ("second", "third"):
        assert after[name].op_type == "MatMulNBits"
        for field in ("output", "doc_string", "metadata_props"):
            assert getattr(after[name], field) == getattr(before[name], field)


def test_other_initializers_keep_their_bytes(tmp_path: Path) -> None:
    before = {t.name: t for t in annotated().graph.initializer}
    outcome = proven(annotated(), tmp_path, targets=2)
    for name in ("other", "large"):
        assert outcome.initializers[name] == before[name]
    assert not {"s", "v", "bias"} & outcome.initializers.keys()


def test_provenance(tmp_path: Path) -> None:
    path = models.write(annotated(), tmp_path / "in.onnx")
    digest = blake3(path.read_bytes()).hexdigest()
    outcome = proven(path, tmp_path, targets=2)
    metadata = {p.key: p.value for p in outcome.model.metadata_props}
    assert metadata.pop("onnxfq.version")
    assert metadata == {
        "author": "author!",
        "onnxfq.scheme": str(models.EXACT),
        "onnxfq.algorithm": "rtn",
        "onnxfq.source_blake3": digest,
    }


def test_old_provenance_is_replaced(tmp_path: Path) -> None:
    proto = annotated()
    proto.metadata_props.add(key="onnxfq.version", value="0")
    keys = [p.key for p in proven(proto, tmp_path, targets=2).model.metadata_props]
    assert len(keys) == len(set(keys)) == 5


def test_the_scheme_of_a_gemm_in_several_nodes_documents_one(tmp_path: Path) -> None:
    """Transpose, MatMulNBits, Mul and Add come of one node; only the kernel's inherits what was said about it."""
    proto = model("y = Gemm <transA = 1, beta = 0.5> (x, w, c)", x="float[64, M] x, float[1] c", w=W)
    proto.graph.node[0].doc_string = "about it"
    proto.graph.node[0].metadata_props.add(key="k", value="v")
    outcome = proven(proto, tmp_path)
    assert outcome.op_types == ["Transpose", "MatMulNBits", "Mul", "Add"]
    assert [n.doc_string for n in outcome.model.graph.node] == ["", "about it", "", ""]
    assert [len(n.metadata_props) for n in outcome.model.graph.node] == [0, 1, 0, 0]


def test_training_information(tmp_path: Path) -> None:
    proto = annotated()
    training = proto.training_info.add()
    training.algorithm.name = training.initialization.name = "train"
    big = np.random.default_rng(2).standard_normal((64, 64)).astype(np.float32)
    training.algorithm.initializer.append(models.tensor(big, "momentum"))
    training.algorithm.node.append(onnx.helper.make_node("Add", ["v", "momentum"], ["v_new"]))
    training.algorithm.output.append(onnx.helper.make_tensor_value_info("v_new", 1, [64, 64]))
    training.initialization.node.append(onnx.helper.make_node("Identity", ["large"], ["v_0"]))
    training.initialization.output.append(onnx.helper.make_tensor_value_info("v_0", 1, [64, 64]))
    training.update_binding.add(key="other", value="v_new")
    before = onnx.TrainingInfoProto.FromString(training.SerializeToString())
    outcome = proven(proto, tmp_path, targets=2)
    assert outcome.model.training_info[0] == before
    assert "v" in outcome.initializers  # read by the training algorithm
    external = models.write_external(proto, tmp_path / "ext.onnx")
    models.quantized_by_rtn(external, tmp_path / "ext.int4.onnx")
    written = onnx.load(tmp_path / "ext.int4.onnx").training_info[0]
    onnx.external_data_helper.load_external_data_for_tensor(written.algorithm.initializer[0], str(tmp_path))
    assert onnx.numpy_helper.to_array(written.algorithm.initializer[0]).tobytes() == big.tobytes()


def test_unknown_fields_survive(tmp_path: Path) -> None:
    """What a newer ONNX may add: field 1000 of the model, 1001 of the graph, 1002 of a node."""
    proto = model("a = MatMul (x, w)  y = Relu (a)", w=W)
    extra = b"\xc2>\x03new"
    proto.MergeFromString(extra)
    proto.graph.MergeFromString(extra)
    proto.graph.node[1].MergeFromString(extra)
    outcome = proven(proto, tmp_path)
    assert outcome.output.read_bytes().count(extra) == 3


def test_unnamed_and_equally_named_nodes(tmp_path: Path) -> None:
    body = "a = MatMul (x, w)  b = MatMul (x, v)  c = MatMul (x, u)  y = Sum (a, b, c)"
    proto = model(body, w=W, v=grid(seed=1), u=grid(seed=2))
    proto.graph.node[1].name = proto.graph.node[2].name = "twin"
    report = models.quantized_by_rtn(models.write(proto, tmp_path / "in.onnx"))  # ONNX Runtime refuses equal names
    assert [n.name for n in onnx.load(tmp_path / "out.onnx").graph.node] == ["", "twin", "twin", ""]
    assert [t.name for t in report.targets] == ["a", "twin", "twin"]


def test_names_that_are_taken_are_never_given_again(tmp_path: Path) -> None:
    """Initializers, values, nodes, inputs and value_info with the names our tensors would have got."""
    body = """
        [w_scales_1] w_zero_points = Relu (w_scales)
        w_Q4_1 = Gemm <transA = 1, beta = 3.0> (w_Q4, w, w_scaled)
        w_Q4_1_product = Relu (w_Q4_1)
        y = Sum (w_Q4_1_product, w_zero_points, w_Q4_transposed, w_scaled_beta)
    """
    proto = model(
        body,
        x="float[64, M] w_Q4, float[M, 32] w_scales, "
        "float[1] w_scaled, float[1] w_Q4_transposed, float[1] w_scaled_beta",
        w=W,
    )
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("w_zero_points_1", 7, [3]))
    outcome = proven(proto, tmp_path)
    written = [t.name for t in outcome.model.graph.initializer]
    assert written[0] not in ("w_Q4", "w_Q4_1")
    assert len(set(written)) == len(written) == 4


def test_names_with_spaces_slashes_and_letters_of_other_scripts(tmp_path: Path) -> None:
    proto = model("y = MatMul (x, w)")
    proto.graph.initializer.append(models.tensor(W, "/слой 1/weight ∂"))
    proto.graph.node[0].input[1] = "/слой 1/weight ∂"
    proto.graph.node[0].name = "/слой 1/MatMul"
    outcome = proven(proto, tmp_path)
    assert outcome.report.targets[0].name == "/слой 1/MatMul"


IMPORTS = {
    "long": [("ai.onnx", 17)],
    "short": [("", 17)],
    "twice": [("", 17), ("", 17)],
    "both": [("", 17), ("ai.onnx", 17)],
    "the last counts": [("", 11), ("ai.onnx", 9), ("", 17)],
}


@pytest.mark.parametrize("long_names", [False, True])
@pytest.mark.parametrize("imports", IMPORTS)
def test_onnxs_own_domain_in_all_its_spellings(imports: str, long_names: bool, tmp_path: Path) -> None:
    body = "y = Gemm <beta = 2.0> (x, w, c)  z = Squeeze (y, axes)"
    proto = model(body, x="float[1, 64] x, float[1] c", y="float[1, 32] y, float[32] z", w=W, axes=np.array([0]))
    for node in proto.graph.node if long_names else ():
        node.domain = "ai.onnx"
    del proto.opset_import[:]
    proto.opset_import.extend(onnx.helper.make_opsetid(*one) for one in IMPORTS[imports])
    outcome = proven(proto, tmp_path)
    assert outcome.op_types == ["MatMulNBits", "Mul", "Add", "Squeeze"]
    assert [(o.domain, o.version) for o in outcome.model.opset_import] == [("", 17), ("com.microsoft", 1)]
    assert {node.domain for node in outcome.model.graph.node} == {"", "com.microsoft"}


def test_the_long_name_inside_branches_and_functions(tmp_path: Path) -> None:
    """ONNX Runtime does not run the function of the source; it runs that of the output."""
    function = '<domain: "local", opset_import: ["" : 17]> twice (a) => (b) { b = Add (a, a) }'
    then, other = "t () => (float[M, 64] p) { p = Neg (x) }", "e () => (float[M, 64] q) { q = Abs (x) }"
    body = f"c = If (on) <then_branch = {then}, else_branch = {other}>  d = local.twice (c)  y = MatMul (d, w)"
    proto = model(body, x="float[M, 64] x, bool on", domains=', "local" : 1', functions=function, w=W)
    short = models.write(proto, tmp_path / "short.onnx")
    for node in (models.branch(proto.graph.node[0], "then_branch").node[0], proto.functions[0].node[0]):
        node.domain = "ai.onnx"
    models.quantized_by_rtn(models.write(proto, tmp_path / "in.onnx"))
    models.compare(short, tmp_path / "out.onnx", {"on": np.array(True)})
    written = onnx.load(tmp_path / "out.onnx")
    nodes = [models.branch(written.graph.node[0], "then_branch").node[0], written.functions[0].node[0]]
    assert [node.domain for node in nodes] == ["", ""]


def test_microsofts_domain_that_is_imported_already(tmp_path: Path) -> None:
    proto = model("z = com.microsoft.Gelu (x)  y = MatMul (z, w)", domains=', "com.microsoft" : 1', w=W)
    outcome = proven(proto, tmp_path)
    assert [o.domain for o in outcome.model.opset_import].count("com.microsoft") == 1


def test_string_tensors_and_types_without_arrays_pass_through(tmp_path: Path) -> None:
    proto = model("y = MatMul (x, w)", w=W)
    words = onnx.helper.make_tensor("words", onnx.TensorProto.STRING, [2], [b"a" * 5000, b"\xff"])
    nibbles = onnx.helper.make_tensor("nibbles", onnx.TensorProto.UINT4, [10001], [3] * 10001)
    eights = onnx.helper.make_tensor("eights", onnx.TensorProto.FLOAT8E4M3FN, [5000], bytes(5000), raw=True)
    packed = onnx.helper.make_tensor("packed", onnx.TensorProto.INT4, [10001], bytes(5001), raw=True)
    wide = onnx.helper.make_tensor("wide", onnx.TensorProto.DOUBLE, [1000], [0.5] * 1000)
    complexes = onnx.helper.make_tensor("complexes", onnx.TensorProto.COMPLEX64, [600], bytes(4800), raw=True)
    others = [words, nibbles, eights, packed, wide, complexes]
    proto.graph.initializer.extend(others)
    models.write(proto, tmp_path / "in.onnx")
    models.quantized_by_rtn(tmp_path / "in.onnx")
    written = {t.name: t for t in onnx.load(tmp_path / "out.onnx").graph.initializer}
    for tensor in others:
        assert written[tensor.name] == tensor


def test_typed_values_move_to_the_data_file_with_the_same_values(tmp_path: Path) -> None:
    """In a model with external data, large tensors that stood in float_data and the like go there too."""
    rng = np.random.default_rng(3)
    arrays: dict[str, Array] = {
        "f": rng.standard_normal(2000).astype(np.float32),
        "d": rng.standard_normal(2000),
        "i": rng.integers(-9, 9, 2000),
        "h": rng.standard_normal(4000).astype(np.float16),
        "b": rng.standard_normal(4000).astype(models.BFLOAT16),
        "u": rng.integers(0, 9, 2000).astype(np.uint64),
        "t": rng.integers(0, 2, 5000).astype(np.bool_),
    }
    path = models.write_external(model("y = MatMul (x, w)", w=W), tmp_path / "in.onnx")
    proto = onnx.load(path, load_external_data=False)
    proto.graph.initializer.extend(models.typed(array, name) for name, array in arrays.items())
    nibbles = onnx.helper.make_tensor("nibbles", onnx.TensorProto.UINT4, [10001], [3] * 10001)
    proto.graph.initializer.append(nibbles)
    outcome = proven(models.write(proto, path), tmp_path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(outcome.initializers[name]), array)
    raw = onnx.load(outcome.output, load_external_data=False)
    stored = {t.name: t for t in raw.graph.initializer}
    assert all(stored[name].data_location == onnx.TensorProto.EXTERNAL for name in arrays)
    assert stored["nibbles"] == nibbles


@pytest.mark.parametrize("what", ["input", "output"])
def test_inputs_and_outputs_of_unknown_rank(what: str, tmp_path: Path) -> None:
    """ONNX's checker wants a shape, ONNX Runtime does not; exporters leave it out where they know none."""
    proto = model("y = MatMul (x, w)", w=W)
    getattr(proto.graph, what)[0].type.tensor_type.ClearField("shape")
    source = models.write(proto, tmp_path / "in.onnx")
    models.quantized_by_rtn(source)
    models.compare(source, tmp_path / "out.onnx", {"x": np.ones((2, K), np.float32)})
    (written,) = getattr(onnx.load(tmp_path / "out.onnx").graph, what)
    assert not written.type.tensor_type.HasField("shape")


def test_sparse_tensors_in_attributes(tmp_path: Path) -> None:
    proto = model("z = vendor.Sparse (x)  y = MatMul (x, w)", domains=', "vendor" : 1', w=W)
    values, where = models.tensor(np.ones(2000, np.float32), ""), models.tensor(np.arange(2000), "")
    sparse = onnx.helper.make_sparse_tensor(values, where, [64, 64])
    attribute = proto.graph.node[0].attribute
    attribute.add(name="many", type=onnx.AttributeProto.SPARSE_TENSORS).sparse_tensors.extend([sparse, sparse])
    attribute.append(onnx.helper.make_attribute("one", sparse))
    models.quantized_by_rtn(models.write(proto, tmp_path / "in.onnx"))
    assert onnx.load(tmp_path / "out.onnx").graph.node[0] == proto.graph.node[0]


@pytest.mark.parametrize("operator", ["SimplifiedLayerNormalization", "LayerNormalization"])
def test_operators_that_onnx_runtime_added_to_onnxs_own_domain(operator: str, tmp_path: Path) -> None:
    """Written by model builders and by ONNX Runtime's optimizer; ONNX does not know them, or not yet."""
    body = f"n = {operator} <axis = -1, epsilon = 0.00001> (x, g)  y = MatMul (n, w)"
    proto = model(body, opset=14, g=np.ones(K, np.float32), w=W)
    source = models.write(proto, tmp_path / "in.onnx")
    models.quantized_by_rtn(source)
    models.compare(source, tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx").graph.node[0] == proto.graph.node[0]
