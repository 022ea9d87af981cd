"""Calibration of models whose graphs are out of the ordinary, as written and as ONNX Runtime runs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest

from onnxfq import pipeline
from support.models import EXACT, Array, branch, find, model, write, write_external
from support.sampled import calibrated, error, tokens
from support.tiny import weight

Feeds = list[dict[str, Array]]
FREE = "1 node was quantized without data, out of calibration's reach"


def small(*seeds: int) -> dict[str, Array]:
    return {f"w{seed}": weight(seed) / np.float32(8) for seed in seeds}


def flagged(*flags: bool) -> Feeds:
    return [{**feed, "c": np.array(flag)} for feed, flag in zip(tokens(*[60] * len(flags)), flags, strict=True)]


# What calibration does not reach


def test_an_input_that_no_sample_changes(tmp_path: Path) -> None:
    body = "h = MatMul(x, w0) d = Tanh(table) p = MatMul(d, w1) s = ReduceSum<keepdims = 1>(p) y = Add(h, s)"
    proto = model(body, y="float[M, 64] y", constants=small(0, 1) | {"table": weight(5)})
    done = calibrated(proto, tmp_path, tokens(90))
    assert done.targets["h"].tokens == 90
    assert (done.targets["p"].tokens, done.targets["p"].output_error) == (0, None)
    assert FREE in done.warnings


@pytest.mark.parametrize("where", ["loop", "scan", "function"])
def test_targets_in_bodies_are_quantized_without_data(tmp_path: Path, where: str) -> None:
    bodies = {
        "loop": "v = Loop (trips, yes, h) <body = b (int64 i, bool go, float[M, 64] s) => (bool on, float[M, 64] t) "
        "{ on = Identity (go) m = MatMul (s, w1) t = Tanh (m) }>",
        "scan": "rows = Unsqueeze (h, first) v3 = Scan <num_scan_inputs = 1, body = b (float[M, 64] s) => "
        "(float[M, 64] t) { m = MatMul (s, w1) t = Tanh (m) }> (rows) v = Squeeze (v3, first)",
        "function": "v = local.block (h, w1)",
    }
    functions = '<opset_import: ["": 17], domain: "local"> block (s, w) => (t) { m = MatMul (s, w) t = Tanh (m) }'
    proto = model(
        f"h = MatMul(x, w0) {bodies[where]} y = MatMul(v, w2)",
        y="float[M, 64] y",
        domains=', "local" : 1' if where == "function" else "",
        functions=functions if where == "function" else "",
        constants=small(0, 1, 2) | {"trips": np.array(2), "yes": np.array(True), "first": np.array([0])},
    )
    used = {feed for node in proto.graph.node for feed in node.input}
    kept = [t for t in proto.graph.initializer if t.name in used or (t.name == "w1" and where != "function")]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    done = calibrated(proto, tmp_path, tokens(80), slack=1.05)
    inside = [target for target in done.report.targets if target.name not in ("h", "y")]
    assert {target.tokens for target in inside} <= {0}
    assert done.targets["h"].tokens == done.targets["y"].tokens == 80
    if inside:
        assert FREE in done.warnings
    else:
        assert done.report.skipped


# Ifs


def branching(condition: str = "bool c") -> onnx.ModelProto:
    return model(
        "h = MatMul(x, w0) z = If (c) <then_branch = a () => (float[M, 64] p) { q = MatMul(h, w1) p = Tanh(q) }, "
        "else_branch = b () => (float[M, 64] r) { o = MatMul(h, w2) r = Sigmoid(o) }> y = MatMul(z, w3)",
        x=f"float[M, 64] x, {condition}",
        y="float[M, 64] y",
        constants=small(0, 1, 2, 3),
    )


@pytest.mark.parametrize("always", [True, False])
def test_an_if_that_always_goes_one_way_is_calibrated(tmp_path: Path, always: bool) -> None:
    done = calibrated(branching(), tmp_path, flagged(always, always))
    taken, other = ("q", "o") if always else ("o", "q")
    assert done.targets[taken].tokens == done.targets["y"].tokens == 120
    assert done.targets[taken].output_error is not None
    assert done.targets[other].tokens == 0
    assert FREE in done.warnings


def test_each_branch_of_an_if_is_calibrated_by_the_samples_that_take_it(tmp_path: Path) -> None:
    done = calibrated(branching(), tmp_path, flagged(True, False, True))
    assert {name: target.tokens for name, target in done.targets.items()} == {"h": 180, "q": 120, "o": 60, "y": 180}
    assert all(target.output_error is not None for target in done.report.targets)
    assert "without data" not in done.warnings
    assert done.error < 0.5 * done.plain_error


def test_a_condition_that_is_computed_takes_each_sample_its_way(tmp_path: Path) -> None:
    proto = model(
        "h = MatMul(x, w0) m = ReduceMean<keepdims = 0>(x) c = Less(m, zero) z = If (c) <then_branch = a () => "
        "(float[M, 64] p) { q = MatMul(h, w1) p = Tanh(q) }, else_branch = b () => (float[M, 64] r) "
        "{ o = MatMul(h, w2) r = Sigmoid(o) }> y = MatMul(z, w3)",
        y="float[M, 64] y",
        constants=small(0, 1, 2, 3) | {"zero": np.array(0, np.float32)},
    )
    feeds = tokens(60, 50, 40, 30)
    below = sum(len(feed["x"]) for feed in feeds if feed["x"].mean() < 0)
    assert 0 < below < 180
    done = calibrated(proto, tmp_path, feeds)
    assert {name: target.tokens for name, target in done.targets.items()} == {
        "h": 180,
        "q": below,
        "o": 180 - below,
        "y": 180,
    }


def merged_decoder(then: str = "Tanh", other: str = "Relu") -> onnx.ModelProto:
    """Both branches name their values alike, and their output as the If does; one weight is the same in both."""
    return model(
        f"y = If (c) <then_branch = a () => (float[M, 64] y) {{ q = MatMul(x, w0) p = {then}(q) y = MatMul(p, w1) }}, "
        f"else_branch = b () => (float[M, 64] y) {{ q = MatMul(x, w0) p = {other}(q) y = MatMul(p, w2) }}>",
        x="float[M, 64] x, bool c",
        y="float[M, 64] y",
        constants=small(0, 1, 2),
    )


@pytest.mark.parametrize("flags", [(True, True), (False, False), (True, False)])
def test_names_that_are_equal_in_two_branches_are_two_things(tmp_path: Path, flags: tuple[bool, bool]) -> None:
    done = calibrated(merged_decoder(), tmp_path, flagged(*flags), slack=1.01)
    first, then, second, other = done.report.targets
    assert (first.tokens, second.tokens) == (120, 120)
    assert [then.tokens, other.tokens] == [60 * flags.count(True), 60 * flags.count(False)]
    assert {first.shares, second.shares} == {"", "q"}  # the first that samples reach is solved
    assert done.error < 0.5 * done.plain_error


def test_a_branch_inside_a_branch_is_calibrated_by_those_that_get_there(tmp_path: Path) -> None:
    inner = (
        "If (d) <then_branch = i () => (float[M, 64] v) { a = MatMul(h, w1) v = Tanh(a) }, "
        "else_branch = j () => (float[M, 64] u) { b = MatMul(h, w2) u = Relu(b) }>"
    )
    proto = model(
        f"h = MatMul(x, w0) y = If (c) <then_branch = k () => (float[M, 64] p) {{ p = {inner} }}, "
        "else_branch = l () => (float[M, 64] r) { e = MatMul(h, w3) r = Sigmoid(e) }>",
        x="float[M, 64] x, bool c, bool d",
        y="float[M, 64] y",
        constants=small(0, 1, 2, 3),
    )
    ways = [(True, True), (True, False), (False, True), (False, False)]
    feeds = [{**feed, "c": np.array(c), "d": np.array(d)} for feed, (c, d) in zip(tokens(*[60] * 4), ways, strict=True)]
    done = calibrated(proto, tmp_path, feeds)
    assert {name: target.tokens for name, target in done.targets.items()} == {"h": 240, "a": 60, "b": 60, "e": 120}


# Sharing


def test_targets_that_share_a_weight(tmp_path: Path) -> None:
    body = "h = MatMul(x, w0) t = Tanh(h) u = MatMul(t, w0) v = Relu(u) y = MatMul(v, w1)"
    done = calibrated(model(body, y="float[M, 64] y", constants=small(0, 1)), tmp_path, tokens(120), slack=1.05)
    first, second, _ = done.report.targets
    assert (second.shares, second.tokens, second.weighted) == ("h", 240, "by calibration")  # both readers' inputs
    assert first.output_error is not None
    assert second.output_error is not None
    assert second.output_error > first.output_error
    assert len([node for node in onnx.load(done.output).graph.node if node.op_type == "MatMulNBits"]) == 3


def test_targets_that_share_an_input_and_a_weight(tmp_path: Path) -> None:
    body = "h = MatMul(x, w0) g = MatMul(x, w0) k = MatMul(x, w1) s = Add(h, g) y = Mul(s, k)"
    done = calibrated(model(body, y="float[M, 64] y", constants=small(0, 1)), tmp_path, tokens(120))
    assert [target.shares for target in done.report.targets] == ["", "h", ""]
    assert {target.tokens for target in done.report.targets} == {120}


# Gemm


GEMMS = ["", "alpha = 0.5", "beta = 2.0", "transB = 1", "transB = 1, alpha = 3.0, beta = 0.5", "beta = 0.0"]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("attributes", GEMMS)
def test_gemm(tmp_path: Path, attributes: str, bias: bool) -> None:
    inputs = "t, w1, b" if bias else "t, w1"
    attribute = f"<{attributes}>" if attributes else ""
    constants = small(0, 1) | ({"b": weight(2, 1, 64)[0]} if bias else {})
    body = f"h = MatMul(x, w0) t = Sigmoid(h) y = Gemm {attribute} ({inputs})"
    done = calibrated(model(body, y="float[M, 64] y", constants=constants), tmp_path, tokens(200))
    assert {target.tokens for target in done.report.targets} == {200}
    assert done.error < 0.7 * done.plain_error
    assert done.targets["y"].output_error == pytest.approx(done.error, rel=0.01)


def test_gemm_that_transposes_its_input(tmp_path: Path) -> None:
    body = "t = Transpose<perm = [1, 0]>(x) u = Tanh(t) y = Gemm <transA = 1> (u, w0, b)"
    constants = small(0) | {"b": weight(2, 1, 64)[0]}
    done = calibrated(model(body, y="float[M, 64] y", constants=constants), tmp_path, tokens(150, 70))
    assert [target.tokens for target in done.report.targets] in ([220], [])
    if done.report.targets:
        assert done.error < 0.7 * done.plain_error


def test_one_tensor_read_as_it_is_and_transposed(tmp_path: Path) -> None:
    body = "u = Tanh(x) g = Gemm <transA = 1> (u, w0) m = MatMul(u, w1) y = Add(g, m)"
    proto = model(body, x="float[64, 64] x", y="float[64, 64] y", constants=small(0, 1))
    done = calibrated(proto, tmp_path, tokens(64, 64))
    assert {target.tokens for target in done.report.targets} == {128}


# Inputs, outputs, names


def test_inputs_that_nothing_reads(tmp_path: Path) -> None:
    proto = model(
        "h = MatMul(x, w0) y = Tanh(h)",
        x="float[M, 64] x, int64[N] unused, float[1] idle",
        y="float[M, 64] y",
        constants=small(0),
    )
    extra: dict[str, Array] = {"unused": np.arange(3), "idle": np.ones(1, np.float32)}
    done = calibrated(proto, tmp_path, [{**feed, **extra} for feed in tokens(50, 70)])
    assert done.targets["h"].tokens == 120


def test_several_outputs_some_of_them_inner_values(tmp_path: Path) -> None:
    body = "h = MatMul(x, w0) a = Add(h, b) t = Tanh(a) g = MatMul(t, w1) y = MatMul(g, w2)"
    constants = small(0, 1, 2) | {"b": weight(7, 1, 64)[0]}
    proto = model(body, y="float[M, 64] y, float[M, 64] h, float[M, 64] g, float[M, 64] x", constants=constants)
    done = calibrated(proto, tmp_path, tokens(150))
    assert {target.tokens for target in done.report.targets} == {150}


def test_nodes_without_names_and_names_that_scopes_have_in_common(tmp_path: Path) -> None:
    proto = branching()
    for node in proto.graph.node:
        node.name = ""
    for name in ("then_branch", "else_branch"):
        for node in branch(find(proto.graph.node, "If"), name).node:
            node.name = node.op_type
    find(proto.graph.node, "MatMul").name = "MatMul"
    report = calibrated(proto, tmp_path, flagged(True, True)).report
    assert [(target.name, target.tokens) for target in report.targets] == [
        ("MatMul", 120),
        ("y", 120),
        ("MatMul", 120),
        ("MatMul", 0),
    ]
    assert len({target.output_error for target in report.targets}) == 4


def test_weights_in_files_of_their_own(tmp_path: Path) -> None:
    body = "h = MatMul(x, w0) a = Add(h, b) t = Tanh(a) y = MatMul(t, w1)"
    constants = small(0, 1) | {"b": weight(7, 1, 64)[0]}
    proto = model(body, y="float[M, 64] y", constants=constants)
    outputs = []
    for kind, writer in (("inline", write), ("external", write_external)):
        folder = tmp_path / kind
        folder.mkdir()
        done = calibrated(writer(proto, folder / "in.onnx"), folder, tokens(90))
        outputs.append([target.relative_error for target in done.report.targets])
    assert outputs[0] == outputs[1]


def test_sparse_constants(tmp_path: Path) -> None:
    proto = model("h = MatMul(x, w0) s = Add(h, b) t = Tanh(s) y = MatMul(t, w1)", y="float[M, 64] y",
                  constants=small(0, 1))  # fmt: skip
    sparse = proto.graph.sparse_initializer.add(dims=[1, 64])
    sparse.values.CopyFrom(onnx.numpy_helper.from_array(np.array([0.5, -1.0], np.float32), "b"))
    sparse.indices.CopyFrom(onnx.numpy_helper.from_array(np.array([3, 60])))
    done = calibrated(proto, tmp_path, tokens(90))
    assert {name: target.tokens for name, target in done.targets.items()} == {"h": 90, "y": 90}


def test_more_than_two_dimensions_and_one(tmp_path: Path) -> None:
    body = "h = MatMul(x, w0) t = Tanh(h) y = MatMul(t, w1)"
    for shape, rank in (((2, 3, 5, 64), "a, b, c, 64"), ((64,), "64")):
        proto = model(body, x=f"float[{rank}] x", y=f"float[{rank}] y", constants=small(0, 1))
        x = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
        done = calibrated(proto, tmp_path, [{"x": sample} for sample in x])
        assert {target.tokens for target in done.report.targets} == {3 * int(np.prod(shape)) // 64}


def test_random_nodes_do_not_stop_a_run(tmp_path: Path) -> None:
    body = "n = RandomUniformLike <seed = 1.0> (x) a = Add(x, n) h = MatMul(a, w0) t = Tanh(h) y = MatMul(t, w1)"
    source = write(model(body, y="float[M, 64] y", constants=small(0, 1)), tmp_path / "in.onnx")
    report = pipeline.quantize(source, tmp_path / "o.onnx", calib=tokens(60), provider="cpu", validate=False)
    assert [target.tokens for target in report.targets] == [60, 60]


def test_sequences_and_optional_inputs_between_stages(tmp_path: Path) -> None:
    body = (
        "h = MatMul(x, w0) s = SequenceConstruct(h, x) i = Constant <value_int = 0> () e = SequenceAt(s, i) "
        "c = Clip(e, , top) t = Tanh(c) g = MatMul(t, w1) q = SequenceInsert(s, g) "
        "y = ConcatFromSequence <axis = 0> (q)"
    )
    constants = small(0, 1) | {"top": np.array(2, np.float32)}
    done = calibrated(model(body, y="float[P, 64] y", constants=constants), tmp_path, tokens(60, 80))
    assert {target.tokens for target in done.report.targets} == {140}


# Values that are no arrays of numbers, between two stages: h is one stage's output, t reaches the next.
NO_NUMBERS = {
    "sequence": "s = SequenceConstruct(h, x) t = SequenceAt(s, zero)",
    "split": "s = SplitToSequence <axis = 1> (h, half) u = SequenceErase(s, zero) "
    "p = ConcatFromSequence <axis = 1> (s) t = Tanh(p)",
    "identity": "s = SequenceConstruct(h) i = Identity(s) t = SequenceAt(i, zero)",
    "map": "s = SequenceConstruct(h) "
    "m = SequenceMap <body = b (float[M, 64] v) => (float[M, 64] o) { o = Tanh(v) }> (s) t = SequenceAt(m, zero)",
    "optional": "s = Optional(h) u = OptionalHasElement(s) t = OptionalGetElement(s)",
    "function": "s = local.pair (h, x) t = SequenceAt(s, zero)",
    "undecided If": "b = ReduceSum <keepdims = 0> (x) c = Less(b, top) s = If (c) <"
    "then_branch = p () => (seq(float[M, 64]) q) { q = SequenceConstruct(h) }, "
    "else_branch = r () => (seq(float[M, 64]) v) { w = Neg(h) v = SequenceConstruct(w) }> t = SequenceAt(s, zero)",
    "Loop": "e = SequenceConstruct(h) s = Loop (two, yes, e) <body = b (int64 i, bool go, seq(float[M, 64]) a) => "
    "(bool on, seq(float[M, 64]) z) { on = Identity(go) z = SequenceInsert(a, h) }> t = SequenceAt(s, zero)",
}


@pytest.mark.parametrize("memory", [10**9, 0])
@pytest.mark.parametrize("case", NO_NUMBERS)
def test_values_that_are_no_arrays_between_stages(case: str, memory: int, tmp_path: Path) -> None:
    """They are read behind the cut too, and calibrated, compared and run piece by piece all the same."""
    constants = small(0, 1, 2) | {
        "zero": np.array(0), "half": np.array(32), "top": np.array(0, np.float32), "two": np.array(2),
        "yes": np.array(True),
    }  # fmt: skip
    again = {"optional": "OptionalGetElement(s)", "map": "SequenceAt(m, zero)"}.get(case, "SequenceAt(s, zero)")
    wide = "" if case != "split" else "x"
    last = "k = Add(g, a)" if not wide else "z = Concat <axis = 1> (a, a) k = Add(g, z)"
    body = f"h = MatMul(x, w0) {NO_NUMBERS[case]} g = MatMul(t, w1) a = {again} {last} y = MatMul(k, w2)"
    pair = '<opset_import: ["": 18], domain: "local"> pair (a, b) => (s) { s = SequenceConstruct(a, b) }'
    proto = model(body, y="float[M, 64] y", opset=18, domains=', "local" : 1', functions=pair, constants=constants)
    done = calibrated(proto, tmp_path, tokens(60, 80), memory=memory, validate=True)
    assert {name: target.tokens for name, target in done.targets.items()} == dict.fromkeys("hgy", 140)
    assert done.report.outputs[0].relative_mse == pytest.approx(done.error, rel=0.5)


def encoder(keys: str, values: str) -> str:
    texts = "strings" if '"' in keys else "int64s"
    others = "int64s" if texts == "strings" else "strings"
    return f"ai.onnx.ml.LabelEncoder <keys_{texts} = [{keys}], values_{others} = [{values}]>"


@pytest.mark.parametrize("memory", [10**9, 0])
def test_texts_across_a_cut(memory: int, tmp_path: Path) -> None:
    """Of inputs, and made on the way: read again behind the stage before."""
    names = '"cat", "dog", "fish"'
    body = (
        f"u = {encoder(names, '1, 2, 3')} (words) n = {encoder('1, 2, 3', names)} (u) "
        "e = Gather(table, u) h = MatMul(e, w0) t = Tanh(h) "
        f"v = {encoder(names, '3, 2, 1')} (n) d = {encoder(names, '2, 3, 1')} (words) "
        "f = Gather(table, v) i = Gather(table, d) a = Add(t, f) b = Add(a, i) y = MatMul(b, w1)"
    )
    constants = small(0, 1) | {"table": weight(7)[:4]}
    proto = model(body, x="string[M] words", y="float[M, 64] y", domains=', "ai.onnx.ml" : 2', constants=constants)
    words = np.array(["cat", "dog", "fish"])
    samples = [{"words": words[np.random.default_rng(seed).integers(3, size=40)]} for seed in range(4)]
    samples[0] = {"words": samples[0]["words"].astype(object)}
    source, output = write(proto, tmp_path / "in.onnx"), tmp_path / "out.onnx"
    report = pipeline.quantize(source, output, calib=samples, memory=memory, scheme=EXACT)
    assert [target.tokens for target in report.targets] == [160, 160]
    assert error(source, output, samples) < 0.001
    assert len(report.outputs) == 1
