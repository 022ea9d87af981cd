"""Tables that are output heads too, as exporters spell it: one copy in the file, and the same answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxfq.graph import Graph
from onnxfq.quantization.equal_weights import tied
from onnxfq.quantization.find import find
from onnxfq.rules import Weight
from onnxfq.scheme import Scheme
from support.models import Array, Outcome, model, normal, proven, reasons, write_external

ROWS, WIDTH = 256, 64
IDS = {"ids": np.array([3, 255, 0, 7, 7, -256])}
INT8: dict[str, Any] = {"scheme": Scheme(), "tolerance": 0.02}  # products of 8 bits are fast with rounded activations


def eight(rows: int = ROWS, width: int = WIDTH) -> Array:
    """A table that 8 bits hold exactly, symmetrically, also with scales in float16."""
    codes = np.random.default_rng(3).integers(-128, 128, (rows, width))
    codes[:, 0] = -128
    return (codes / 128).astype(np.float32)


TABLE = eight()
HALF = TABLE.astype(np.float16)
TURNED = np.ascontiguousarray(TABLE.T)
LOOKED_UP = "e = Gather (table, ids)"
SPELLINGS: dict[str, tuple[str, dict[str, Array]]] = {
    "Transpose": (f"{LOOKED_UP} t = Transpose (table) y = MatMul (e, t)", {"table": TABLE}),
    "Gemm": (f"{LOOKED_UP} y = Gemm <transB = 1> (e, table)", {"table": TABLE}),
    "FusedMatMul": (f"{LOOKED_UP} y = com.microsoft.FusedMatMul <transB = 1> (e, table)", {"table": TABLE}),
    "Einsum": (f'{LOOKED_UP} y = Einsum <equation = "mk,nk->mn"> (e, table)', {"table": TABLE}),
    "left operand": (
        f"{LOOKED_UP} t = Transpose (e) p = MatMul (table, t) y = Transpose (p)",
        {"table": TABLE},
    ),
    "Identity": (f"i = Identity (table) {LOOKED_UP} t = Transpose (i) y = MatMul (e, t)", {"table": TABLE}),
    "Reshape": (
        "s = Reshape (flat, shape) e = Gather (s, ids) t = Transpose (s) y = MatMul (e, t)",
        {"flat": TABLE.ravel(), "shape": np.array([ROWS, WIDTH])},
    ),
    "Gather of a Transpose": ("t = Transpose (head) e = Gather (t, ids) y = MatMul (e, head)", {"head": TURNED}),
    "Gather of columns": (
        "c = Gather <axis = 1> (head, ids) e = Transpose (c) y = MatMul (e, head)",
        {"head": TURNED},
    ),
    "Gather of columns from behind": (
        "c = Gather <axis = -1> (head, ids) e = Transpose (c) y = MatMul (e, head)",
        {"head": TURNED},
    ),
    "folded Transpose": (f"{LOOKED_UP} y = MatMul (e, head)", {"table": TABLE, "head": TURNED}),
    "folded Transpose, more dimensions": (f"{LOOKED_UP} p = MatMul (e, head) y = Squeeze (p, first)",
                                          {"table": TABLE, "head": TURNED[None], "first": np.array([0])}),
    "copied": (f"{LOOKED_UP} y = Gemm <transB = 1> (e, head)", {"table": TABLE, "head": TABLE}),
    "two tables": (
        f"{LOOKED_UP} f = Gather (other, ids) s = Add (e, f) y = Gemm <transB = 1> (s, other)",
        {"table": TABLE, "other": TABLE},
    ),
    "Cast before both": (
        "w = Cast <to = 1> (table) e = Gather (w, ids) t = Transpose (w) y = MatMul (e, t)",
        {"table": HALF},
    ),
    "Cast before each": (
        "w = Cast <to = 1> (table) e = Gather (w, ids) t = Transpose (table) u = Cast <to = 1> (t) y = MatMul (e, u)",
        {"table": HALF},
    ),
    "Cast behind the Gather": (
        "g = Gather (table, ids) e = Cast <to = 1> (g) w = Cast <to = 1> (table) y = Gemm <transB = 1> (e, w)",
        {"table": HALF},
    ),
    "Cast before the Gather": (
        "w = Cast <to = 1> (table) e = Gather (w, ids) h = Cast <to = 10> (e) p = Gemm <transB = 1> (h, table)"
        "y = Cast <to = 1> (p)",
        {"table": HALF},
    ),
    "stored in two types": (f"{LOOKED_UP} c = Cast <to = 1> (e) y = MatMul (c, head)", {"table": HALF, "head": TURNED}),
}  # fmt: skip


def spelled(case: str, ids: str = "int64") -> onnx.ModelProto:
    body, constants = SPELLINGS[case]
    return model(body, x=f"{ids}[M] ids", y="float[M, 256] y", domains=', "com.microsoft" : 1', constants=constants)


def large(outcome: Outcome) -> list[str]:
    """The tensors of codes and floats that make up the file."""
    return [t.name for t in outcome.initializers.values() if len(t.raw_data) > ROWS * WIDTH // 4]


@pytest.mark.parametrize("case", SPELLINGS)
def test_one_copy_whatever_the_spelling(case: str, tmp_path: Path) -> None:
    lookups = SPELLINGS[case][0].count("Gather")
    outcome = proven(spelled(case), tmp_path, targets=lookups + 1, feed=IDS, **INT8)
    (codes,) = large(outcome)
    assert codes.endswith("_Q8")
    assert [t.shares != "" for t in outcome.report.targets] == [False, *[True] * lookups]
    assert {t.operator for t in outcome.report.targets} == {"GatherBlockQuantized", "MatMulNBits"}


@pytest.mark.parametrize(("symmetric", "ids"), [(True, "int32"), (False, "int64")])
@pytest.mark.parametrize("block_size", [16, 32, 64])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_what_a_tied_file_computes(
    half: bool, bits: int, block_size: int, symmetric: bool, ids: str, tmp_path: Path
) -> None:
    """A table on the grid comes out exactly; the product is the table's, but for rounded activations."""
    rng, top = np.random.default_rng(1), 1 << bits
    codes = rng.integers(0, top, (ROWS, WIDTH))
    codes[:, ::block_size], codes[:, 1::block_size] = 0, top - 1
    middle = top // 2 if symmetric else rng.integers(1, top, (ROWS, WIDTH // block_size)).repeat(block_size, axis=1)
    table = ((codes - middle) / 128).astype(np.float16 if half else np.float32)
    body = "e = Gather (table, ids) t = Transpose (table) p = MatMul (e, t)"
    kind, scheme = "float16" if half else "float", Scheme(4, block_size, symmetric)
    outputs = f"{kind}[M, 256] y, {kind}[M, 64] z"
    proto = model(f"{body} y = Identity (p) z = Identity (e)", x=f"{ids}[M] ids", y=outputs, table=table)
    schemes = {".": {"bits": bits, "block_size": block_size, "symmetric": symmetric}}
    outcome = proven(proto, tmp_path, targets=2, feed={"ids": IDS["ids"].astype(ids)}, tolerance=0.05, embeddings=bits,
                     scheme=scheme, schemes=schemes, allow_slow=True)  # fmt: skip
    assert {(t.bits, t.block_size) for t in outcome.report.targets} == {(bits, block_size)}
    assert len(large(outcome)) == 1
    assert outcome.report.targets[0].relative_error == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("turned", [False, True], ids=["as it is", "turned"])
@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize(("row", "column", "read"), [(None, None, 2), (ROWS // 2, 0, 0), (-1, -1, 2)])
def test_values_in_a_file_of_their_own_are_read_where_some_of_them_are_equal(
    row: int | None, column: int | None, read: int, half: bool, turned: bool, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    other = TABLE.copy()
    if row is not None and column is not None:
        other[row, column] += 1 / 128
    kind = np.float16 if half else np.float32
    head = "y = MatMul (e, head)" if turned else "y = Gemm <transB = 1> (e, head)"
    constants = {"table": TABLE.astype(kind), "head": np.ascontiguousarray(other.T if turned else other).astype(kind)}
    name = "float16" if half else "float"
    proto = model(f"{LOOKED_UP} {head}", x="int64[M] ids", y=f"{name}[M, 256] y", constants=constants)
    graph = Graph.load(write_external(proto, tmp_path / "in.onnx"))
    targets, _ = find(graph, (), ())
    whole = list[Weight]()

    def spy(self: Weight, scratch: object = None) -> Array:
        whole.append(self)
        return self.constant.load()

    monkeypatch.setattr(Weight, "read", spy)
    table, product = (target for _, target in tied(targets))
    assert (table.key == product.key) == (row is None)
    assert len(whole) == read


def test_a_row_that_differs_keeps_two_weights(tmp_path: Path) -> None:
    head = TURNED.copy()
    head[-1, -1] += 1 / 128
    outcome = proven(
        model(f"{LOOKED_UP} y = MatMul (e, head)", x="int64[M] ids", y="float[M, 256] y", table=TABLE, head=head),
        tmp_path, targets=2, feed=IDS, scheme=Scheme(), tolerance=0.5,
    )  # fmt: skip
    assert [t.shares for t in outcome.report.targets] == ["", ""]
    assert [t.bits for t in outcome.report.targets] == [8, 4]


def test_copies_where_the_user_wants_them(tmp_path: Path) -> None:
    outcome = proven(spelled("Transpose"), tmp_path, targets=2, feed=IDS, scheme=Scheme(), tolerance=0.5, unshare=True)
    assert [(t.bits, t.shares) for t in outcome.report.targets] == [(8, ""), (4, "")]


def test_a_table_beside_a_branch_that_holds_a_copy_of_it(tmp_path: Path) -> None:
    """The head's own values stand where the table's node does not see them: the copy stands at the table."""
    branch = model(
        """e = Gather (table, ids)
           y = If (flag) <
             then_branch = one () => (float[M, 256] p) { p = MatMul (e, head) },
             else_branch = two () => (float[M, 256] q) { q = Gemm <transB = 1> (e, table) }
           >""",
        x="int64[M] ids, bool flag", y="float[M, 256] y", table=TABLE, constants={},
    )  # fmt: skip
    inner = next(a.g for a in branch.graph.node[1].attribute if a.name == "then_branch")
    inner.initializer.append(onnx.numpy_helper.from_array(TURNED, "head"))
    for flag in (True, False):
        outcome = proven(branch, tmp_path, targets=3, feed={**IDS, "flag": np.array(flag)}, **INT8)
        assert large(outcome) == ["table_Q8"]
    assert outcome.output.stat().st_size < ROWS * WIDTH * 1.3


def test_branches_with_copies_of_their_own_keep_them(tmp_path: Path) -> None:
    proto = model(
        """y = If (flag) <
             then_branch = one () => (float[M, 64] p) { p = Gather (first, ids) },
             else_branch = two () => (float[M, 64] q) { q = Gather (second, ids) }
           >""",
        x="int64[M] ids, bool flag", y="float[M, 64] y",
    )  # fmt: skip
    for attribute in proto.graph.node[0].attribute:
        name = {"one": "first", "two": "second"}[attribute.g.name]
        attribute.g.initializer.append(onnx.numpy_helper.from_array(TABLE, name))
    for flag in (True, False):
        outcome = proven(proto, tmp_path, targets=2, feed={**IDS, "flag": np.array(flag)})
    assert [t.shares for t in outcome.report.targets] == ["", ""]


def test_a_lookup_inside_a_loop(tmp_path: Path) -> None:
    proto = model(
        """start = ReduceSum <keepdims = 0> (e0)
           y, ys = Loop (count, , start) <body = step (int64 i, bool c, float s) => (bool d, float t, float[M, 64] r) {
             d = Identity (c) r = Gather (table, ids) sum = ReduceSum <keepdims = 0> (r) t = Add (s, sum) }>""",
        x="int64[M] ids, float[M] e0", y="float y, float[N, M, 64] ys", table=TABLE,
        constants={"count": np.array(3)},
    )  # fmt: skip
    outcome = proven(proto, tmp_path, feed={**IDS, "e0": normal(4)})
    assert large(outcome) == ["table_Q8"]


OTHERS = {
    "Slice": ("r = Slice (table, begin, end, axis)", {"begin": "int64[1] begin", "end": "int64[1] end"}),
    "GatherND": ("i = Unsqueeze (ids, axis1) r = GatherND (table, i)", {}),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_table_that_others_read_stays_with_the_reason(case: str, tmp_path: Path) -> None:
    """Codes beside floats that stay would make the file larger."""
    reader, inputs = OTHERS[case]
    proto = model(
        f"{reader} e = Gather (table, ids) a = ReduceMean <keepdims = 0> (r) b = ReduceMean <keepdims = 0> (e)"
        "s = Add (a, b) p = MatMul (x, w) y = Add (p, s)",
        x=", ".join(["float[M, 64] x", "int64[L] ids", *inputs.values()]),
        constants={"w": TURNED[:, :32], "table": TABLE, "axis": np.array([0]), "axis1": np.array([1])},
    )  # fmt: skip
    feed = {**IDS, "begin": np.array([3]), "end": np.array([9])}
    outcome = proven(proto, tmp_path, feed={name: feed[name] for name in ["ids", *inputs]}, tolerance=0.5)
    assert "table" in outcome.initializers
    found = reasons(outcome.report)
    assert found["e"] == (
        "nodes that are left alone read this table too: its floats stay, and codes would only add to them"
    )
    assert found["r"] == f"{case} takes rows of a table: ONNX Runtime has an operator for codes in place of Gather only"


def test_a_head_that_is_left_out_keeps_its_table(tmp_path: Path) -> None:
    proto = model(
        "e = Gather (table, ids) t = Transpose (table) h = MatMul (e, w) y = MatMul (h, t)",
        x="int64[M] ids", y="float[M, 256] y", table=TABLE, w=TURNED[:, :64].copy(),
    )  # fmt: skip
    outcome = proven(proto, tmp_path, feed=IDS, tolerance=0.5, exclude="^y$")
    assert outcome.op_types == ["Gather", "Transpose", "MatMulNBits", "MatMul"]
    assert outcome.output.stat().st_size < outcome.source.stat().st_size


def test_columns_of_unknown_indices_stay_with_the_reason(tmp_path: Path) -> None:
    proto = model(
        "i = Reshape (ids, dimensions) c = Gather <axis = 1> (head, i) s = ReduceMean <keepdims = 0> (c)"
        "p = MatMul (x, head) y = Add (p, s)",
        x="float[M, 64] x, int64[L] ids, int64[D] dimensions", y="float[M, 256] y", head=TURNED,
    )  # fmt: skip
    outcome = proven(proto, tmp_path, feed={**IDS, "dimensions": np.array([2, 3])}, tolerance=0.5)
    assert "nothing tells how many dimensions its indices have" in reasons(outcome.report)["c"]
