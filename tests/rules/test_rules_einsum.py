"""Einsum with a constant: a product where the equation is one, left alone with a reason where it is more."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxfq
from support import models
from support.models import Array, constant, grid, model, proven, reasons

SIZES = {"b": 2, "t": 5, "d": 64, "h": 4, "k": 16, "m": 32, "f": 32, "q": 3, "c": 64, "s": 1}


def weight(letters: str, inputs: str, sizes: dict[str, int]) -> Array:
    """A constant with these letters as axes that four bits hold exactly: 32 inputs in turn are a block."""
    outputs = [letter for letter in letters if letter not in inputs]
    order = [*inputs, *outputs]
    matrix = grid(math.prod(sizes[i] for i in inputs), math.prod(sizes[o] for o in outputs))
    spread = matrix.reshape([sizes[letter] for letter in order])
    return np.ascontiguousarray(spread.transpose([order.index(letter) for letter in letters]))


def einsum(
    equation: str, w: Array, shape: tuple[int, ...], *, first: bool = False, declared: str = ""
) -> onnx.ModelProto:
    """A model `y = Einsum(x, w)`, or of `w` and `x`."""
    rank = len(np.einsum(equation, *((w, np.empty(shape)) if first else (np.empty(shape), w))).shape)
    axes = declared or ", ".join(f"X{i}" for i in range(len(shape)))
    result = ", ".join(f"Y{i}" for i in range(rank))
    body = f'y = Einsum <equation = "{equation}"> ({"w, x" if first else "x, w"})'
    return model(body, x=f"float[{axes}] x", y=f"float[{result}] y", w=w)


def fed(shape: tuple[int, ...]) -> dict[str, Array]:
    return {"x": np.random.default_rng(5).standard_normal(shape).astype(np.float32)}


# equation, letters that are summed over, and the operators that are written.
PLAIN: dict[str, tuple[str, list[str]]] = {
    "bd,df->bf": ("d", ["MatMulNBits"]),
    "bd,fd->bf": ("d", ["MatMulNBits"]),
    "btd,df->btf": ("d", ["MatMulNBits"]),
    "btd,df": ("d", ["MatMulNBits", "Transpose"]),
    "bd,df": ("d", ["MatMulNBits"]),
    "d,df->f": ("d", ["MatMulNBits"]),
    "btd,dhk->bthk": ("d", ["MatMulNBits", "Reshape"]),
    "btd,hkd->bthk": ("d", ["MatMulNBits", "Reshape"]),
    "btd,hdk->bhtk": ("d", ["MatMulNBits", "Reshape", "Transpose"]),
    "btd,dhk->bhkt": ("d", ["MatMulNBits", "Reshape", "Transpose"]),
    "btd,dhk->btkh": ("d", ["MatMulNBits", "Reshape"]),
    "bthk,hkd->btd": ("hk", ["Reshape", "MatMulNBits"]),
    "bthk,dhk->btd": ("hk", ["Reshape", "MatMulNBits"]),
    "bthk,khd->btd": ("hk", ["Reshape", "MatMulNBits"]),
    "bhtk,hkd->btd": ("hk", ["Transpose", "Reshape", "MatMulNBits"]),
    "htk,hkd->td": ("hk", ["Transpose", "Reshape", "MatMulNBits"]),
    "bqhk,hkm->bqm": ("hk", ["Reshape", "MatMulNBits"]),
    "bthk,hkmq->btmq": ("hk", ["Reshape", "MatMulNBits", "Reshape"]),
    "hk,hkd->d": ("hk", ["Reshape", "MatMulNBits"]),
    "bd,df->fb": ("d", ["MatMulNBits", "Transpose"]),
    "bdt,df->bft": ("d", ["Transpose", "MatMulNBits", "Transpose"]),
    "bdt,df->btf": ("d", ["Transpose", "MatMulNBits"]),
    "dt,df->tf": ("d", ["Transpose", "MatMulNBits"]),
    "bdqt,df->bfqt": ("d", ["Transpose", "MatMulNBits", "Transpose"]),
    "btd,df->tbf": ("d", ["MatMulNBits", "Transpose"]),
    "...d,df->...f": ("d", ["MatMulNBits"]),
    "...d,df": ("d", ["MatMulNBits"]),
    "b...d,df->b...f": ("d", ["MatMulNBits"]),
    "b...d,dhk->...bhk": ("d", ["MatMulNBits", "Reshape", "Transpose"]),
    "...hk,hkd->...d": ("hk", ["Reshape", "MatMulNBits"]),
    "...dt,df->...tf": ("d", ["Transpose", "MatMulNBits"]),
    "b t d , d f -> b t f": ("d", ["MatMulNBits"]),
    "sd,df->sf": ("d", ["MatMulNBits"]),
}  # fmt: skip


def case(equation: str, hidden: tuple[int, ...] = (3, 2)) -> tuple[Array, tuple[int, ...]]:
    """The constant of an equation, and a shape for its other operand."""
    terms = "".join(equation.split()).partition("->")[0].split(",")
    axes: list[tuple[int, ...]] = [(SIZES[letter],) for letter in terms[0].replace("...", ".") if letter != "."]
    if "..." in terms[0]:
        axes.insert(terms[0].index("..."), hidden)
    return weight(terms[1], PLAIN[equation][0], SIZES), tuple(size for part in axes for size in part)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("equation", PLAIN)
def test_products_are_targets(equation: str, swapped: bool, tmp_path: Path) -> None:
    w, shape = case(equation)
    operands, arrow, result = equation.partition("->")
    text = f"{','.join(reversed(operands.split(',')))}{arrow}{result}" if swapped else equation
    outcome = proven(einsum(text, w, shape, first=swapped), tmp_path, feed=fed(shape))
    assert outcome.op_types == PLAIN[equation][1]
    (target,) = outcome.report.targets
    assert (target.op_type, target.operator) == ("Einsum", "MatMulNBits")
    assert target.n * target.k == w.size
    assert "w" not in outcome.initializers
    (node,) = outcome.nodes("MatMulNBits")
    assert {a.name: a.i for a in node.attribute}["K"] == target.k


@pytest.mark.parametrize("sizes", [(0, 5), (2, 0), (1, 1), (7, 3)])
@pytest.mark.parametrize("equation", [e for e in PLAIN if e.startswith(("bt", "bd", "bh"))])
def test_any_number_of_rows(equation: str, sizes: tuple[int, int], tmp_path: Path) -> None:
    w, shape = case(equation)
    term = "".join(equation.split()).split(",")[0]
    free = dict(zip("bt", sizes, strict=True))
    proven(einsum(equation, w, shape), tmp_path, feed=fed(tuple(free.get(t, SIZES[t]) for t in term)))


@pytest.mark.parametrize("hidden", [(), (3,), (2, 1, 3)])
@pytest.mark.parametrize("equation", [e for e in PLAIN if "..." in e])
def test_any_number_of_hidden_axes(equation: str, hidden: tuple[int, ...], tmp_path: Path) -> None:
    w, shape = case(equation, hidden)
    proven(einsum(equation, w, shape), tmp_path, feed=fed(shape))


def test_hidden_axes_that_nothing_counts(tmp_path: Path) -> None:
    """A plain product needs no count; what moves or joins axes does."""
    body = (
        'z = Reshape (x, s)  a = Einsum <equation = "...d,df->...f"> (z, w)  '
        'b = Einsum <equation = "...d,dhk->...hk"> (z, v)  y = Add (a, c)'
    )
    proto = model(body, x="float[2, 3, 64] x, int64[R] s", y="float[2, 3, 32] y", w=grid(), v=grid().reshape(64, 2, 16),
                  c=np.zeros(32, np.float32))  # fmt: skip
    outcome = proven(proto, tmp_path, feed={"s": np.array([2, 3, 64])})
    reason = "the Einsum '...d,dhk->...hk' is no product with one matrix: nothing tells how many axes '...' stands for"
    assert reasons(outcome.report) == {"b": reason}


def normal(*shape: int) -> Array:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def test_activations_that_einsum_repeats_are_left_alone(tmp_path: Path) -> None:
    body = 'y = Einsum <equation = "bd,df->bf"> (x, w) p = MatMul (z, v)'
    proto = model(body, x="float[M, 1] x, float[M, 64] z", y="float[M, 32] y, float[M, 32] p", w=grid(), v=grid(seed=1))
    outcome = proven(proto, tmp_path, feed={"x": normal(3, 1), "z": normal(3, 64)})
    why = "'d' has size 1 in the activations, which repeats them"
    assert reasons(outcome.report) == {"y": f"the Einsum 'bd,df->bf' is no product with one matrix: {why}"}


# equation: (shape of the constant, shape of what is fed, why)
ODD: dict[str, tuple[tuple[int, ...], tuple[int, ...], str]] = {
    "bhtk,hkd->bhtd": ((4, 32, 16), (2, 4, 3, 32), "its constant is a batch of matrices, one for each 'h'"),
    "bd,bdf->bf": ((2, 64, 32), (2, 64), "its constant is a batch of matrices, one for each 'b'"),
    "bd,ddf->bf": ((64, 64, 8), (2, 64), "'d' stands twice in one of its terms"),
    "bdd,df->bf": ((64, 32), (2, 64, 64), "'d' stands twice in one of its terms"),
    "bd,dfe->bf": ((64, 32, 2), (2, 64), "'e' is summed over in the constant alone"),
    "btd,df->bf": ((64, 32), (2, 3, 64), "'t' is summed over in the activations alone"),
    "bd,tf->bdtf": ((32, 32), (2, 3), "it sums over no axis of its constant"),
    "btd,td->b": ((32, 64), (2, 32, 64), "its constant is a vector: it adds no axis to the result"),
    "bd,...df->...bf": ((2, 64, 32), (3, 64), "its constant has axes that '...' stands for"),
    "bhk,hkd->bd": ((1, 64, 32), (3, 4, 64), "'h' has size 1 in the constant, and any size in the activations"),
}  # fmt: skip


@pytest.mark.parametrize("equation", ODD)
def test_what_is_more_than_a_product_is_left_alone(equation: str, tmp_path: Path) -> None:
    shape, given, why = ODD[equation]
    proto = einsum(equation, normal(*shape), given)
    proto.graph.node.append(onnx.helper.make_node("MatMul", ["z", "v"], ["p"]))
    proto.graph.input.append(onnx.helper.make_tensor_value_info("z", 1, ["M", 64]))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("p", 1, ["M", 32]))
    proto.graph.initializer.append(models.tensor(grid(), "v"))
    outcome = proven(proto, tmp_path, feed=fed(given))
    assert reasons(outcome.report) == {"y": f"the Einsum '{equation}' is no product with one matrix: {why}"}
    assert outcome.report.skipped[0].float_bytes == 4 * math.prod(shape)
    assert outcome.model.graph.node[0] == proto.graph.node[0]
    assert outcome.initializers["w"] == proto.graph.initializer[0]


def test_other_einsums_are_named(tmp_path: Path) -> None:
    """Two computed operands, three, both constant, a small one, one that is quantized, and integers."""
    body = """
        computed = Einsum <equation = "md,nd->mn"> (x, x)
        three = Einsum <equation = "md,df,f->mf"> (x, w, u)
        both = Einsum <equation = "df,df->d"> (w, w)
        small = Einsum <equation = "md,d->m"> (x, v)
        q = DequantizeLinear (codes, scale)  done = Einsum <equation = "md,df->mf"> (x, q)
        i = Cast <to = 6> (x)  whole = Einsum <equation = "md,df->mf"> (i, n)
        alone = Einsum <equation = "md->dm"> (x)
        unread = Einsum <equation = "md,df->m1"> (x, w)
        y = MatMul (x, w)
    """
    codes = np.arange(64 * 32).reshape(64, 32)
    constants = {"w": grid(), "u": np.ones(32, np.float32), "v": np.ones(64, np.float32),
                 "codes": codes.astype(np.int8), "scale": np.array(0.5, np.float32),
                 "n": codes.astype(np.int32)}  # fmt: skip
    report = models.quantized_by_rtn(models.write(model(body, constants=constants), tmp_path / "in.onnx"))
    assert reasons(report) == {
        "computed": "no constant weight: both inputs are computed at run time",
        "three": "an Einsum of 3 operands: MatMulNBits multiplies two",
        "both": "both inputs are constant: nothing is computed at run time",
        "small": "too small: 64 weights (fewer than 1024 are not worth it)",
        "done": "already quantized: its weight comes from DequantizeLinear",
        "whole": "unsupported type: int32 weights (MatMulNBits computes in float32, float16 or bfloat16)",
        "unread": "the Einsum 'md,df->m1' is no product with one matrix: it cannot be read",
    }
    assert [target.name for target in report.targets] == ["y"]


def test_readers_order_letters_of_both_sizes_differently(tmp_path: Path) -> None:
    proto = model('z = Einsum <equation = "Md,df"> (x, w)  y = MatMul (x, w)', w=grid())
    report = models.quantized_by_rtn(models.write(proto, tmp_path / "in.onnx"))
    assert "small and capital letters" in reasons(report)["z"]


@pytest.mark.parametrize("equation", ["btd,dhk->bthk", "bthk,hkd->btd", "bd,df->fb"])
def test_float16(equation: str, tmp_path: Path) -> None:
    w, shape = case(equation)
    proto = einsum(equation, w.astype(np.float16), shape)
    for info in (*proto.graph.input, *proto.graph.output):
        info.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    outcome = proven(proto, tmp_path, tolerance=5e-3, feed={"x": fed(shape)["x"].astype(np.float16)})
    assert outcome.initializers["w_scales"].data_type == onnx.TensorProto.FLOAT16


@pytest.mark.parametrize("opset", [12, 13, 18, 21])
def test_operator_sets(opset: int, tmp_path: Path) -> None:
    w, shape = case("bhtk,hkd->btd")
    proto = einsum("bhtk,hkd->btd", w, shape)
    proto.opset_import[0].version = opset
    proven(proto, tmp_path, feed=fed(shape))


def test_functions_and_branches(tmp_path: Path) -> None:
    equation = 'Einsum <equation = "bthk,hkd->btd">'
    function = f'<domain: "local", opset_import: ["" : 17]> joined (a) => (b) {{ b = {equation} (a, v) }}'
    w = weight("hkd", "hk", {"h": 4, "k": 16, "d": 32})
    then, other = (
        f"t () => (float[B, T, 32] p) {{ p = {equation} (x, w) }}",
        "e () => (float[B, T, 32] q) { q = Neg (f) }",
    )
    proto = model(f"f = local.joined (x)  y = If (on) <then_branch = {then}, else_branch = {other}>",
                  x="float[B, T, 4, 16] x, bool on", y="float[B, T, 32] y", domains=', "local" : 1',
                  functions=function, w=w)  # fmt: skip
    proto.functions[0].node.insert(0, constant(w, "v"))
    for on in (True, False):
        proven(proto, tmp_path, targets=2, feed={"on": np.array(on), **fed((2, 3, 4, 16))})


def test_one_copy_serves_a_product_and_an_einsum(tmp_path: Path) -> None:
    body = """
        r = Reshape (w, s)  a = MatMul (x, r)
        b = Einsum <equation = "md,dhk->mhk"> (x, w)  f = Flatten (b)  y = Add (a, f)
    """
    proto = model(body, w=grid().reshape(64, 2, 16), s=np.array([64, 32]))
    outcome = proven(proto, tmp_path, targets=2)
    assert [name for name in outcome.initializers if name.endswith("_Q4")] == ["w_Q4"]


FUSED: dict[str, tuple[str, tuple[int, ...], Array]] = {
    "plain": ("(x, w)", (2, 3, 64), grid()),
    "turned right": ("<transB = 1> (x, w)", (2, 3, 64), grid().T.copy()),
    "turned left": ("<transA = 1> (x, w)", (2, 64, 3), grid()),
    "a factor": ("<alpha = 0.5, transB = 1> (x, w)", (3, 64), grid().T.copy()),
    "constant on the left": ("(w, x)", (2, 64, 3), grid().T.copy()),
    "constant on the left, both turned": ("<transA = 1, transB = 1> (w, x)", (2, 3, 64), grid()),
    "a vector": ("<transA = 1> (x, w)", (64,), grid()),
    "one more dimension": ("<transB = 1> (x, w)", (3, 64), grid().T[np.newaxis].copy()),
}  # fmt: skip


@pytest.mark.parametrize("operator", ["FusedMatMul", "TransposeMatMul"])
@pytest.mark.parametrize("case", FUSED)
def test_products_that_onnx_runtime_has_fused(case: str, operator: str, tmp_path: Path) -> None:
    call, shape, w = FUSED[case]
    sizes, rank = ", ".join(map(str, shape)), max(len(shape), w.ndim) - (len(shape) == 1)
    proto = model(f"y = com.microsoft.{operator} {call}", x=f"float[{sizes}] x", domains=', "com.microsoft" : 1',
                  y=f"float[{', '.join(f'Y{i}' for i in range(rank))}] y", w=w)  # fmt: skip
    outcome = proven(proto, tmp_path, feed=fed(shape))
    assert "MatMulNBits" in outcome.op_types
    assert "w" not in outcome.initializers


def test_fused_products_that_do_more_are_left_alone(tmp_path: Path) -> None:
    body = """
        z = Reshape (x, s)
        a = com.microsoft.FusedMatMul <transBatchA = 1> (x, v)
        b = com.microsoft.FusedMatMul <transA = 1> (z, w)
        c = com.microsoft.FusedMatMul <transB = 1> (w, z)
        y = MatMul (x, w)
    """
    proto = model(body, x="float[M, 64] x, int64[R] s", domains=', "com.microsoft" : 1', w=grid(), v=grid())
    report = models.quantized_by_rtn(models.write(proto, tmp_path / "in.onnx"))
    assert reasons(report) == {
        "a": "it moves the activations' first dimension too",
        "b": "it turns its left operand, and nothing tells how many dimensions that has",
        "c": "the constant weight is the left operand, and nothing tells how many dimensions the right one has",
    }


def varied(shape: tuple[int, ...], inputs: tuple[int, ...], count: int = 8) -> list[dict[str, Array]]:
    """Samples whose inputs, the axes named, vary together."""
    rng = np.random.default_rng(0)
    k = math.prod(shape[axis] for axis in inputs)
    rows = [axis for axis in range(len(shape)) if axis not in inputs]
    mixing = rng.standard_normal((6, k))
    order = [*rows, *inputs]
    found = []
    for _ in range(count):
        mixed = rng.standard_normal((math.prod(shape[axis] for axis in rows), 6)) @ mixing
        spread = mixed.reshape([shape[axis] for axis in order])
        found.append({"x": spread.transpose([order.index(axis) for axis in range(len(shape))]).astype(np.float32)})
    return found


@pytest.mark.parametrize(
    ("equation", "inputs", "tokens"),
    [
        ("btd,dhk->bthk", (2,), 8 * 2 * 20),
        ("bthk,hkd->btd", (2, 3), 8 * 2 * 20),
        ("bdt,df->btf", (1,), 8 * 2 * 20),
        ("bd,df->fb", (1,), 8 * 40),
        ("bhtk,hkd->btd", (1, 3), 0),
    ],
)
@pytest.mark.parametrize("biased", [False, True])
def test_they_are_calibrated_where_their_inputs_are_last(
    equation: str, inputs: tuple[int, ...], tokens: int, biased: bool, tmp_path: Path
) -> None:
    term, letters = equation.partition("->")[0].split(",")
    sizes = {**SIZES, "t": 20, **({"b": 40} if equation.startswith("bd,") else {})}
    shape = tuple(sizes[letter] for letter in term)
    w = normal(*(sizes[letter] for letter in letters))
    proto = einsum(equation, w, shape)
    if biased:
        result = equation.partition("->")[2]
        last = [sizes[letter] for letter in result if letter in letters] if result[-1] in letters else [sizes["b"]]
        proto.graph.node[0].output[0] = "p"
        proto.graph.node.append(onnx.helper.make_node("Add", ["p", "c"], ["y"]))
        proto.graph.initializer.append(models.tensor(normal(*last), "c"))
    path = models.write(proto, tmp_path / "in.onnx")
    found = {}
    for algorithm in ("hqq", "gptq"):
        report = onnxfq.quantize(path, tmp_path / "out.onnx", algorithm=algorithm, calib=varied(shape, inputs))
        found[algorithm] = report.outputs[0].relative_mse or math.inf
        assert report.targets[0].tokens == (tokens if algorithm == "gptq" else 0)
    if tokens:
        assert found["gptq"] < 0.5 * found["hqq"]
