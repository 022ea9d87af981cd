"""A node with several weights is replaced once, when all of them are stored, in the order of their slots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from onnxfq.graph import Graph, TensorFile
from onnxfq.options import Options
from onnxfq.quantization.apply import Rewriting
from onnxfq.quantization.assign import Planned
from onnxfq.quantization.job import Job
from onnxfq.quantization.solved_weight import SolvedWeight, WeightTask, solve_weight
from onnxfq.rules import WrittenWeight
from onnxfq.rules.matmul_nbits import MatMulNBits
from onnxfq.solvers.rtn import Rtn
from support import models
from support.models import EXACT, grid, model
from support.planned import targets_of

SLOTS = 3


class Together(MatMulNBits):
    """A rule whose node has three weights: products with one input, as experts or fused projections are."""

    def __init__(self) -> None:
        self.calls: list[list[WrittenWeight]] = []

    def positions(self, slot: int) -> Mapping[str, int]:
        return {name: position + len(self.inputs) * slot for name, position in self.inputs.items()}

    def rewrite(self, graph: Graph, weights: Sequence[WrittenWeight], tensor_file: TensorFile) -> None:
        self.calls.append(list(weights))


def job(folder: Path, rule: Together, *, same: bool = False) -> Job:
    """Three products of which the first node has all weights; another node stands beside it."""
    body = "a = MatMul (x, w0)  b = MatMul (x, w1)  c = MatMul (x, w2)  d = MatMul (x, w3)  y = Sum (a, b, c, d)"
    weights = {f"w{i}": grid(seed=i) for i in range(4)}
    graph = Graph.load(models.write(model(body.replace("w2", "w0") if same else body, constants=weights), folder / "m"))
    targets = targets_of(graph)
    own = [replace(t, node=targets[0].node, name="a", slot=slot) for slot, t in enumerate(targets[:SLOTS])]
    planned = [Planned(t, rule, EXACT, rule.kernel("cpu", EXACT, t), rule) for t in (*own, targets[3])]
    return Job(graph, Options(scheme=EXACT), "cpu", Rtn(), planned, str(EXACT), ())


def solved(p: Planned) -> SolvedWeight:
    found = solve_weight(WeightTask(p.target.matrix, p.target.scale_type, p.storage, p.kernel, Rtn(), p.scheme))
    assert found is not None
    return found


@pytest.mark.parametrize("order", list(permutations(range(SLOTS))))
def test_a_node_is_replaced_when_its_last_weight_is_stored(order: tuple[int, ...], tmp_path: Path) -> None:
    rule = Together()
    work = job(tmp_path, rule)
    with TensorFile(tmp_path / "tensors") as tensor_file:
        rewriting = Rewriting(work, tensor_file)
        for index in order:
            assert not rule.calls
            rewriting.apply(index, solved(work.planned[index]))
    (weights,) = rule.calls
    assert [weight.target.slot for weight in weights] == list(range(SLOTS))
    assert [dict(weight.names) for weight in weights] == [
        {"B": f"w{slot}_Q4", "scales": f"w{slot}_scales", "zero_points": f"w{slot}_zero_points"}
        for slot in range(SLOTS)
    ]
    assert {weight.target.node.outputs[0] for weight in weights} == {"a"}


def test_other_nodes_do_not_wait(tmp_path: Path) -> None:
    rule = Together()
    work = job(tmp_path, rule)
    with TensorFile(tmp_path / "tensors") as tensor_file:
        rewriting = Rewriting(work, tensor_file)
        rewriting.apply(0, solved(work.planned[0]))
        rewriting.apply(3, solved(work.planned[3]))
    assert [[weight.target.node.outputs[0] for weight in weights] for weights in rule.calls] == [["d"]]


def test_slots_may_share_a_weight(tmp_path: Path) -> None:
    rule = Together()
    work = job(tmp_path, rule, same=True)
    with TensorFile(tmp_path / "tensors") as tensor_file:
        rewriting = Rewriting(work, tensor_file)
        assert list(rewriting.missing(range(SLOTS))) == [0, 1]
        for index in range(SLOTS):
            rewriting.apply(index, solved(work.planned[index]) if index < 2 else None)
    (weights,) = rule.calls
    assert weights[0].names == weights[2].names != weights[1].names


def test_what_each_slot_must_hold_is_expected(tmp_path: Path) -> None:
    rule = Together()
    work = job(tmp_path, rule)
    with TensorFile(tmp_path / "tensors") as tensor_file:
        rewriting = Rewriting(work, tensor_file)
        for index in range(SLOTS + 1):
            rewriting.apply(index, solved(work.planned[index]))
        reports, expected = rewriting.finish({1: 0.5})
    assert [(e.node, e.slot, e.codes) for e in expected] == [
        ("a", 0, "w0_Q4"), ("a", 1, "w1_Q4"), ("a", 2, "w2_Q4"), ("d", 0, "w3_Q4"),
    ]  # fmt: skip
    assert [report.output_error for report in reports] == [None, 0.5, None, None]
    assert np.isfinite([report.relative_error for report in reports if report.relative_error is not None]).all()
