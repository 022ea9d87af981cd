"""Which nodes are chosen, by which kernel, and what is refused before any work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import pytest

from onnxfq.errors import ModelError, SchemeError, UsageError
from onnxfq.graph import Graph
from onnxfq.pipeline import inspect
from onnxfq.quantization.find import find, refuse_nothing
from onnxfq.rules import Rule, Skip, Target
from onnxfq.scheme import Scheme
from support import models
from support.models import grid, model
from support.planned import planned

BODY = "a = MatMul (x, w0)  b = MatMul (a, w1)  c = MatMul (b, w2)  y = Gemm (c, w3)"
NAMES = ("layer.0/up", "layer.0/down", "layer.1/up", "head")


def network(folder: Path) -> Graph:
    constants = {f"w{i}": grid(32 if i % 2 else 64, 64 if i % 2 else 32, seed=i) for i in range(4)}
    constants["w3"] = grid(32, 96)
    proto = model(BODY, y="float[M, 96] y", constants=constants)
    for node, name in zip(proto.graph.node, NAMES, strict=True):
        node.name = name
    return Graph.load(models.write(proto, folder / "in.onnx"))


def names(found: list[tuple[Rule, Target]]) -> list[str]:
    return [target.name for _, target in found]


def test_everything_by_default_in_file_order(tmp_path: Path) -> None:
    targets, skips = find(network(tmp_path), (), ())
    assert names(targets) == list(NAMES)
    assert [(t.n, t.k) for _, t in targets] == [(32, 64), (64, 32), (32, 64), (96, 32)]
    assert not skips


def test_include(tmp_path: Path) -> None:
    targets, skips = find(network(tmp_path), ("up$", "^head"), ())
    assert names(targets) == ["layer.0/up", "layer.1/up", "head"]
    assert skips == [
        Skip("layer.0/down", "MatMul", "excluded by the user (not matched by `include`)", nbytes=32 * 64 * 4)
    ]


def test_exclude_wins_over_include(tmp_path: Path) -> None:
    targets, skips = find(network(tmp_path), ("layer",), ("down", r"layer\.1"))
    assert names(targets) == ["layer.0/up"]
    assert [s.reason for s in skips] == [
        "excluded by the user (`exclude=down`)",
        r"excluded by the user (`exclude=layer\.1`)",
        "excluded by the user (not matched by `include`)",
    ]


def test_expressions_search_anywhere_in_a_name(tmp_path: Path) -> None:
    assert len(find(network(tmp_path), (".",), ())[0]) == 4
    assert len(find(network(tmp_path), ("0/",), ())[0]) == 2


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_an_expression_that_does_not_compile(option: str, tmp_path: Path) -> None:
    given = (["("], ()) if option == "include" else ((), ["("])
    with pytest.raises(UsageError, match=rf"`{option}` takes regular expressions \(got '\('"):
        find(network(tmp_path), *given)


def test_expressions_that_match_nothing_are_named_with_what_there_is(tmp_path: Path) -> None:
    network(tmp_path)
    with pytest.raises(
        UsageError, match=r"No MatMul, Gemm, Einsum.* matches `include=Layer`, `exclude=tail`.*'layer.0/up'"
    ):
        inspect(tmp_path / "in.onnx", include=("Layer", "up"), exclude=("tail",))


def test_an_expression_may_name_nodes_that_are_left_alone_anyway(tmp_path: Path) -> None:
    proto = model("[small] a = MatMul (x, v)  [big] y = MatMul (x, w)", v=grid(64, 4), w=grid())
    graph = Graph.load(models.write(proto, tmp_path / "in.onnx"))
    targets, skips = find(graph, (), ("small",))
    assert names(targets) == ["big"]
    assert skips[0].reason.startswith("too small")


def test_the_default_scheme_is_fast(tmp_path: Path) -> None:
    chosen, skips = planned(network(tmp_path), Scheme())
    assert [p.kernel.speed for p in chosen] == ["fast"] * 4
    assert [(p.kernel.bits, p.kernel.block_size, p.kernel.accuracy_level) for p in chosen] == [(4, 32, 4)] * 4
    assert not skips


def test_a_slow_scheme_is_refused_with_the_nearest_that_is_fast(tmp_path: Path) -> None:
    with pytest.raises(SchemeError, match=r"4 targets, such as 'layer.0/up'.*nearest fast scheme.*`allow_slow=True`"):
        planned(network(tmp_path), Scheme(bits=8, activations="float"))


def test_no_scheme_is_refused_where_nobody_measured_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table's processors have instructions that this one lacks: it says nothing about it."""
    for module in ("rules.matmul_nbits_kernels", "machines"):
        monkeypatch.setattr(f"onnxfq.{module}.instructions", lambda: "riscv64")
    chosen, skips = planned(network(tmp_path), Scheme(bits=8, activations="float"))
    assert [p.kernel.speed for p in chosen] == ["unknown"] * 4
    assert not skips
    report = models.quantized_by_rtn(tmp_path / "in.onnx", scheme=Scheme(bits=8, activations="float"))
    assert {target.speed for target in report.targets} == {"unknown"}
    assert not any(word in " ".join(report.warnings) for word in ("slow", "fast"))


def test_a_slow_scheme_is_taken_where_it_is_asked_for(tmp_path: Path) -> None:
    chosen, _ = planned(network(tmp_path), Scheme(bits=8, activations="float"), allow_slow=True)
    assert [p.kernel.speed for p in chosen] == ["slow"] * 4


def test_weights_whose_shape_alone_makes_them_slow_are_left_alone(tmp_path: Path) -> None:
    proto = model("[odd] a = MatMul (x, v)  [even] y = MatMul (x, w)", v=grid(64, 33), w=grid())
    graph = Graph.load(models.write(proto, tmp_path / "in.onnx"))
    chosen, skips = planned(graph, Scheme(symmetric=True), "cuda")
    assert [p.target.name for p in chosen] == ["even"]
    assert skips[0].name == "odd"
    assert "slower than float on cuda" in skips[0].reason
    assert "N=33 and K=64 are not both multiples of 8" in skips[0].reason
    assert "`allow_slow=True`" in skips[0].reason
    everything, none = planned(graph, Scheme(symmetric=True), "cuda", allow_slow=True)
    assert len(everything) == 2
    assert not none


def test_all_offenders_are_counted_at_once(tmp_path: Path) -> None:
    half = grid().astype(models.BFLOAT16)
    proto = model("a = MatMul (x, v)  y = MatMul (x, w)", x="bfloat16[M, 64] x", y="bfloat16[M, 32] y", v=half, w=half)
    graph = Graph.load(models.write(proto, tmp_path / "in.onnx"))
    with pytest.raises(SchemeError, match=r"no bfloat16 activations on cpu.*\(2 targets\.\)"):
        planned(graph, Scheme())


def test_a_model_without_anything_to_do_is_refused_with_reasons(tmp_path: Path) -> None:
    proto = model(
        "a = MatMul (x, v)  t = Transpose (x)  b = MatMul (a, c)  y = Add (b, b)", v=grid(64, 4), c=grid(4, 4)
    )
    graph = Graph.load(models.write(proto, tmp_path / "in.onnx"))
    _, skips = find(graph, (), ())
    with pytest.raises(ModelError, match=r"Nothing to quantize in .*: 1x too small: 256 weights.*; 1x too small: 16"):
        refuse_nothing(graph, skips, ())


def test_a_model_without_matmul_says_so(tmp_path: Path) -> None:
    graph = Graph.load(models.write(model("y = Relu (x)", y="float[M, 64] y"), tmp_path / "in.onnx"))
    with pytest.raises(ModelError, match="it has no MatMul, Gemm, Einsum, Gather, MoE or LSTM"):
        refuse_nothing(graph, find(graph, (), ())[1], ())


def test_a_quantized_model_is_not_refused(tmp_path: Path) -> None:
    refuse_nothing(network(tmp_path), [Skip("a", "MatMulNBits", "already quantized", quantized=True)], ())


def test_ten_thousand_nodes_take_no_time(tmp_path: Path) -> None:
    """Attention products among many nodes: following them must not walk the whole model each time."""
    proto = model("y = MatMul (x, w)", x="float[64, 64] x", y="float[64, 64] y", w=grid(64, 64))
    nodes, last = [], "x"
    for index in range(3000):
        name = f"n{index}"
        inputs = [last, last] if index % 3 == 0 else [last]
        nodes.append(onnx.helper.make_node("MatMul" if index % 3 == 0 else "Relu", inputs, [name]))
        last = name
    proto.graph.node.extend(nodes)
    graph = Graph.load(models.write(proto, tmp_path / "in.onnx"))
    targets, skips = find(graph, (), ())
    assert (len(targets), len(skips)) == (1, 1000)
    assert np.all([s.reason.startswith("no constant weight") for s in skips])
