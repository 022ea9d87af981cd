"""Gradients that ONNX Runtime computes, against what small changes do, for every operator that has a rule."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from onnxfq.graph import LOSS, Graph, Loss, TrainingModel, factor, teacher
from onnxfq.graph.gradient_registry import GRADIENTS
from onnxfq.graph.gradients import Gradients
from onnxfq.session import Session
from support.models import Array, model, normal, whole, write

CHANGE = 1e-2  # of single elements; central differences are off by the square of it


@dataclass(frozen=True)
class Case:
    """One node, and what its gradients are asked for."""

    body: str
    parameters: Mapping[str, Array]
    constants: Mapping[str, Array] = field(default_factory=dict)
    domains: str = ""
    opset: int = 18

    @property
    def operator(self) -> str:
        found = re.search(r"= (\w+)[<(]", self.body)
        assert found
        return found[1]


def positive(*shape: int) -> Array:
    """Numbers between 1 and 3."""
    return np.asarray(1 + 2 * np.random.default_rng(1).random(shape), np.float32)


def apart(*shape: int) -> Array:
    """Numbers of both signs that are not near 0."""
    random = np.random.default_rng(2)
    return np.asarray(random.choice([-1, 1], shape) * (0.5 + random.random(shape)), np.float32)


W, X = normal(4, 5), normal(2, 3, 4)
ROW = {"a": X, "b": positive(4)}
TURNED = {"a": normal(3, 1), "b": positive(2, 1, 4)}  # each is repeated along an axis of the other's
FOUR = {"four": whole(4)}

CASES = [
    Case("y = Add(a, b)", ROW),
    Case("y = Add(a, b)", TURNED),
    Case("y = Sum(a, b, c)", {**TURNED, "c": normal(2, 3, 4)}),
    Case("y = Sub(a, b)", TURNED),
    Case("y = Mul(a, b)", TURNED),
    Case("y = Mul(a, a)", {"a": X}),
    Case("y = Div(a, b)", TURNED),
    Case("y = Where(which, a, b)", TURNED, {"which": normal(2, 3, 4) > 0}),
    Case("y = Pow(a, p)", {"a": X}, {"p": np.array(2, np.float32)}),
    Case("y = Pow(a, p)", {"a": positive(2, 3)}, {"p": np.array(-1.5, np.float32)}),
    Case("y = Tanh(a)", {"a": X}),
    Case("y = Erf(a)", {"a": X}),
    Case("y = Sigmoid(a)", {"a": X}),
    Case("y = Sqrt(a)", {"a": positive(2, 3)}),
    Case("y = Reciprocal(a)", {"a": positive(2, 3)}),
    Case("y = Exp(a)", {"a": X}),
    Case("y = Log(a)", {"a": positive(2, 3)}),
    Case("y = Abs(a)", {"a": apart(2, 3)}),
    Case("y = Sin(a)", {"a": X}),
    Case("y = Cos(a)", {"a": X}),
    Case("y = Relu(a)", {"a": apart(2, 3)}),
    Case("y = Gelu(a)", {"a": X}, opset=20),
    Case("y = Neg(a)", {"a": X}),
    Case("y = Identity(a)", {"a": X}),
    Case("y = MatMul(a, b)", {"a": X, "b": W}),
    Case("y = MatMul(a, b)", {"a": W, "b": normal(2, 5, 3)}),
    Case("y = MatMul(a, b)", {"a": normal(2, 1, 3, 4), "b": normal(5, 4, 2)}),
    Case("y = Gemm(a, b, c)", {"a": normal(3, 4), "b": W, "c": normal(5)}),
    Case("y = Gemm<transB = 1>(a, b)", {"a": normal(3, 4), "b": normal(5, 4)}),
    Case("y = Softmax(a)", {"a": X}),
    Case("y = Softmax<axis = 1>(a)", {"a": X}),
    Case("y = LayerNormalization(a, b, c)", {"a": X, "b": positive(4), "c": normal(4)}),
    Case("y = SimplifiedLayerNormalization<epsilon = 0.01>(a, b)", ROW),
    Case("y = RMSNormalization<epsilon = 0.01>(a, b)", ROW, opset=23),
    Case("y = Cast<to = 1>(a)", {"a": X}),
    Case("y = Transpose<perm = [1, 2, 0]>(a)", {"a": X}),
    Case("y = Transpose(a)", {"a": X}),
    Case("y = Reshape(a, shape)", {"a": X}, {"shape": whole(4, -1)}),
    Case("y = Squeeze(a, axes)", {"a": normal(3, 1, 2)}, {"axes": whole(1)}),
    Case("y = Unsqueeze(a, axes)", {"a": X}, {"axes": whole(0, 2)}),
    Case("y = Flatten(a)", {"a": X}),
    Case("y = Expand(a, shape)", {"a": normal(3, 1)}, {"shape": whole(2, 3, 4)}),
    Case("y = ReduceMean(a, axes)", {"a": X}, {"axes": whole(-1)}),
    Case("y = ReduceMean<axes = [1], keepdims = 0>(a)", {"a": X}, opset=17),
    Case("y = ReduceSum<keepdims = 0>(a, axes)", {"a": X}, {"axes": whole(0, -1)}),
    Case("y = ReduceSum(a)", {"a": X}),
    Case("y = ReduceSum(a, axes)", {"a": X}, {"axes": whole()}),
    Case("y = ReduceSum<noop_with_empty_axes = 1>(a, axes)", {"a": X}, {"axes": whole()}),
    Case("y = Concat<axis = -1>(a, b)", {"a": X, "b": normal(2, 3, 2)}),
    Case("s, t = Split<axis = 2, num_outputs = 2>(a) y = Mul(s, s)", {"a": X}),
    Case("y, t = Split<axis = -1>(a, lengths)", {"a": X}, {"lengths": whole(1, 3)}),
    Case("y = Slice(a, starts, ends, axes)", {"a": X}, {"starts": whole(1), "ends": whole(99), "axes": whole(-1)}),
    Case("y = Slice(a, starts, ends, axes, steps)", {"a": X},
         {"starts": whole(-3), "ends": whole(-1), "axes": whole(1), "steps": whole(1)}),
    Case("y = Gather<axis = 1>(a, rows)", {"a": X}, {"rows": np.array([[2, 0], [2, -1]])}),
    Case("y = Gather<axis = -1>(a, rows)", {"a": X}, {"rows": np.array(1)}),
]  # fmt: skip


def trained(case: Case, path: Path, loss: Loss = "squares") -> tuple[TrainingModel, Session, Gradients]:
    proto = model(case.body, x="float[1] x", y="float[] y", opset=case.opset, domains=case.domains,
                  constants={**case.parameters, **case.constants})  # fmt: skip
    training = TrainingModel(Graph.load(write(proto, path / "case.onnx")), {})
    fed = {name: value.shape for name, value in case.parameters.items()}
    names = training.values(list(fed))
    found = Session(training.forward(fed, names).model).run({"x": np.zeros(1, np.float32), **case.parameters}, names)
    submodel, gradients = training.with_gradients({n: v.shape for n, v in found.items()}, fed, {"y": loss})
    return training, Session(submodel.model), gradients


def run(session: Session, case: Case, outputs: Sequence[str], changed: Mapping[str, Array], y: Array) -> list[Array]:
    fed = {"x": np.zeros(1, np.float32), **case.parameters, **changed}
    fed |= {teacher("y"): y, factor("y"): np.full((1,) * y.ndim, 0.7, np.float32)}
    names = {spec.name for spec in session.signature().inputs}
    return list(session.run({name: value for name, value in fed.items() if name in names}, outputs).values())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.body)
def test_gradients_are_what_changes_do(tmp_path: Path, case: Case) -> None:
    training, session, gradients = trained(case, tmp_path)
    assert gradients.blocked == ()
    assert gradients.names.keys() == case.parameters.keys()
    fed = {name: value.shape for name, value in case.parameters.items()}
    (y,) = Session(training.forward(fed, ["y"]).model).run(
        {"x": np.zeros(1, np.float32), **case.parameters}, ["y"]
    ).values()  # fmt: skip
    wanted = np.asarray(y + normal(*y.shape), np.float32)
    for name, value in case.parameters.items():
        (got,) = run(session, case, [gradients.names[name]], {}, wanted)
        assert got.shape == value.shape
        slopes = np.empty(value.size)
        for index in range(value.size):
            losses = []
            for sign in (CHANGE, -CHANGE):
                moved = value.copy()
                moved.reshape(-1)[index] += sign
                losses += run(session, case, [LOSS], {name: moved}, wanted)
            slopes[index] = (losses[0] - losses[1]) / (2 * CHANGE)
        assert np.abs(got.reshape(-1) - slopes).max() <= 0.01 * max(1.0, np.abs(slopes).max())


def test_every_rule_has_a_case() -> None:
    assert {case.operator for case in CASES} == set(GRADIENTS)


def test_the_loss_of_logits_is_the_divergence(tmp_path: Path) -> None:
    case = Case("y = Identity(a)", {"a": normal(3, 5)})
    _, session, gradients = trained(case, tmp_path, "kl")
    wanted = np.asarray(np.random.default_rng(3).standard_normal((3, 5)), np.float32)
    p, q = (np.exp(v) / np.exp(v).sum(axis=-1, keepdims=True) for v in (wanted, case.parameters["a"]))
    loss, slope = run(session, case, [LOSS, gradients.names["a"]], {}, wanted)
    assert loss == pytest.approx(0.7 * (p * np.log(p / q)).sum(), rel=1e-5)
    np.testing.assert_allclose(slope, 0.7 * (q - p), atol=1e-6)


@pytest.mark.parametrize(
    "body",
    ["h = Mul(a, a) y = CumSum(h, axis)", "h = Mul(a, a) y = Slice(h, starts, ends, axis, steps)"],
    ids=["no rule", "a rule that does not know this"],
)
def test_operators_without_a_gradient_are_named(tmp_path: Path, body: str) -> None:
    numbers = {"starts": whole(0), "ends": whole(4), "steps": whole(2)} if "Slice" in body else {}
    case = Case(f"{body} ", {"a": X}, {"axis": whole(2)[0] if "Cum" in body else whole(2), **numbers})
    _, _, gradients = trained(case, tmp_path)
    assert gradients.blocked == (body.split("y = ")[1].split("(")[0],)
    assert gradients.names == {}


def test_what_reads_only_sizes_needs_no_gradient(tmp_path: Path) -> None:
    case = Case("s = Shape(a) z = ConstantOfShape(s) y = Add(z, b)", {"a": X, "b": positive(4)})
    _, _, gradients = trained(case, tmp_path)
    assert gradients.names.keys() == {"b"}
    assert gradients.blocked == ()


def test_the_model_is_left_as_it_is(tmp_path: Path) -> None:
    case = Case("y = LayerNormalization(a, b)", {"a": X, "b": positive(4)})
    training, _, _ = trained(case, tmp_path)
    assert [list(node.output) for node in training.graph.model.graph.node] == [["y"]]
