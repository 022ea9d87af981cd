"""Tables of embeddings: quantized, left alone with the reason, and stored once where they are output heads too."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from onnxfq import pipeline
from onnxfq.errors import SchemeError, UsageError, VerificationError
from onnxfq.pipeline import inspect
from onnxfq.providers import ProviderName
from onnxfq.quantization.verify import Expected, verify
from onnxfq.scheme import Scheme
from support import models
from support.models import Array, grid, model, proven, reasons

ROWS, WIDTH = 256, 64
INT8: dict[str, Any] = {
    "scheme": Scheme(),
    "tolerance": 0.02,
}  # products of 8 bits are fast with rounded activations only
IDS = {"ids": np.array([[0, 255, -1], [7, 7, -256]])}
PLAIN = "e = Gather (table, ids)  y = MatMul (e, w)"
TIED = "e = Gather (table, ids)  t = Transpose (table)  y = MatMul (e, t)"


def four(width: int = WIDTH, rows: int = ROWS) -> Array:
    """A table that 4 bits in blocks of 32 hold exactly."""
    return np.ascontiguousarray(grid(width, rows, seed=7).T)


def eight() -> Array:
    """A table that 8 bits hold exactly, symmetrically."""
    codes = np.random.default_rng(3).integers(-128, 128, (ROWS, WIDTH))
    codes[:, 0] = -128
    return (codes / 128).astype(np.float32)


def plain(table: Array) -> onnx.ModelProto:
    return model(PLAIN, x="int64[M, L] ids", y="float[M, L, 32] y", table=table, w=grid())


def tied(table: Array, body: str = TIED) -> onnx.ModelProto:
    return model(body, x="int64[M, L] ids", y="float[M, L, 256] y", table=table)


# Quantized


def test_by_default_in_8_bits(tmp_path: Path) -> None:
    outcome = proven(plain(eight()), tmp_path, targets=2, feed=IDS)
    assert outcome.op_types == ["GatherBlockQuantized", "MatMulNBits"]
    table, product = outcome.report.targets
    assert (table.op_type, table.operator, table.bits) == ("Gather", "GatherBlockQuantized", 8)
    assert (product.op_type, product.operator, product.bits) == ("MatMul", "MatMulNBits", 4)
    assert sorted(outcome.initializers)[:2] == ["table_Q8", "table_scales"]


def test_in_4_bits(tmp_path: Path) -> None:
    outcome = proven(plain(four()), tmp_path, targets=2, feed=IDS, embeddings=4)
    assert [t.bits for t in outcome.report.targets] == [4, 4]
    assert outcome.initializers["table_Q4"].dims == [ROWS, WIDTH // 2]
    assert "table" not in outcome.initializers


def test_a_table_in_float16(tmp_path: Path) -> None:
    body = "e = Gather (table, ids)  y = Cast <to = 1> (e)"
    proto = model(body, x="int64[M, L] ids", y="float[M, L, 64] y", table=eight().astype(np.float16))
    outcome = proven(proto, tmp_path, feed=IDS)
    assert outcome.op_types == ["GatherBlockQuantized", "Cast"]


def test_a_table_in_bfloat16_which_the_kernel_does_not_give(tmp_path: Path) -> None:
    body = "e = Gather (table, ids)  y = Cast <to = 1> (e)"
    proto = model(body, x="int64[M] ids", y="float[M, 64] y", table=eight().astype(models.BFLOAT16))
    outcome = proven(proto, tmp_path, feed={"ids": IDS["ids"][0]})
    assert outcome.op_types == ["GatherBlockQuantized", "Cast", "Cast"]
    assert outcome.initializers["table_scales"].data_type == onnx.TensorProto.FLOAT


def test_columns_of_a_table_are_rows_of_its_transpose(tmp_path: Path) -> None:
    body = "e = Gather <axis = 1> (table, ids)  y = Identity (e)"
    proto = model(body, x="int64[M, L] ids", y="float[64, M, L] y", table=np.ascontiguousarray(eight().T))
    outcome = proven(proto, tmp_path, feed=IDS)
    assert outcome.op_types == ["GatherBlockQuantized", "Transpose", "Identity"]
    (target,) = outcome.report.targets
    assert (target.n, target.k) == (ROWS, WIDTH)


def test_ids_of_32_bits_and_a_negative_axis(tmp_path: Path) -> None:
    body = "e = Gather <axis = -2> (table, ids)  y = MatMul (e, w)"
    proto = model(body, x="int32[M, L] ids", y="float[M, L, 32] y", table=eight(), w=grid())
    proven(proto, tmp_path, targets=2, feed={"ids": IDS["ids"].astype(np.int32)})


def test_two_lookups_in_one_table_share_it(tmp_path: Path) -> None:
    body = "a = Gather (table, ids)  b = Gather (table, ids)  y = Add (a, b)"
    outcome = proven(
        model(body, x="int64[M, L] ids", y="float[M, L, 64] y", table=eight()), tmp_path, targets=2, feed=IDS
    )
    assert [t.shares for t in outcome.report.targets] == ["", "a"]
    assert sorted(outcome.initializers) == ["table_Q8", "table_scales"]


# Left alone


def test_as_floats_where_that_is_asked_for(tmp_path: Path) -> None:
    outcome = proven(plain(eight()), tmp_path, feed=IDS, embeddings="float")
    assert outcome.op_types == ["Gather", "MatMulNBits"]
    assert reasons(outcome.report) == {"e": 'embeddings stay in float (`embeddings="float"`)'}


def test_excluded(tmp_path: Path) -> None:
    outcome = proven(plain(eight()), tmp_path, feed=IDS, exclude="^e$")
    assert outcome.op_types == ["Gather", "MatMulNBits"]
    assert reasons(outcome.report) == {"e": "excluded by the user (`exclude=^e$`)"}


OTHERS: dict[str, tuple[str, dict[str, Array]]] = {
    "small": ("e = Gather (table, ids)", {"table": four(64, 255)}),
    "of integers": ("i = Gather (table, ids)  e = Cast <to = 1> (i)", {"table": np.ones((ROWS, WIDTH), np.int32)}),
    "of doubles": ("i = Gather (table, ids)  e = Cast <to = 1> (i)", {"table": eight().astype(np.float64)}),
    "of three axes": ("e = Gather (table, ids)", {"table": eight().reshape(ROWS, 8, 8)}),
}


@pytest.mark.parametrize("case", OTHERS)
def test_tables_that_are_no_business_of_it(case: str, tmp_path: Path) -> None:
    body, constants = OTHERS[case]
    proto = model(f"{body}  s = ReduceSum <keepdims = 0> (e)  p = MatMul (x, w)  y = Add (p, s)",
                  x="float[M, 64] x, int64[L] ids", constants={"w": grid(), **constants})  # fmt: skip
    before = [proto.graph.node[0].SerializeToString(), constants["table"].tobytes()]
    outcome = proven(proto, tmp_path, feed={"ids": np.array([0, 5, 7])})
    table = onnx.numpy_helper.to_array(outcome.initializers["table"])
    assert [outcome.model.graph.node[0].SerializeToString(), table.tobytes()] == before


def test_a_constant_that_is_looked_up_in_by_a_constant(tmp_path: Path) -> None:
    body = "e = Gather (table, fixed)  s = ReduceSum <keepdims = 0> (e)  p = MatMul (x, w)  y = Add (p, s)"
    outcome = proven(model(body, w=grid(), table=eight(), fixed=np.array([1, 2])), tmp_path)
    assert "table" in outcome.initializers


# Refused


def refusal(tmp_path: Path, proto: onnx.ModelProto, **changes: Any) -> str:
    path = models.write(proto, tmp_path / "in.onnx")
    with pytest.raises(SchemeError) as raised:
        models.quantized_by_rtn(path, **changes)
    assert not path.with_name("out.onnx").exists()
    return str(raised.value)


def test_rows_of_half_bytes(tmp_path: Path) -> None:
    proto = model("y = Gather (table, ids)", x="int64[M] ids", y="float[M, 65] y", table=four(65))
    message = refusal(tmp_path, proto, embeddings=4)
    assert "Rows of 65 codes of 4 bits are no whole bytes" in message
    assert "`embeddings=8`" in message
    models.quantized_by_rtn(tmp_path / "in.onnx", embeddings=8)


@pytest.mark.parametrize("wrong", [2, "16", "int8", None])
def test_embeddings_of_no_such_kind(wrong: Any) -> None:  # noqa: ANN401
    with pytest.raises(UsageError, match=r"`embeddings` must be (4, 8 or float|a whole number or text) "):
        pipeline.Options(embeddings=wrong)


# Tied to the head


def test_a_tied_table_is_stored_once(tmp_path: Path) -> None:
    outcome = proven(tied(eight()), tmp_path, targets=2, feed=IDS, **INT8)
    assert outcome.op_types == ["Reshape", "GatherBlockQuantized", "MatMulNBits"]
    assert [t.shares for t in outcome.report.targets] == ["", "e"]
    assert [t.bits for t in outcome.report.targets] == [8, 8]
    large = [t.name for t in outcome.initializers.values() if len(t.raw_data) > 4096]
    assert large == ["table_Q8"]
    assert outcome.output.stat().st_size < ROWS * WIDTH * 1.2
    (gather,), (product,) = outcome.nodes("GatherBlockQuantized"), outcome.nodes("MatMulNBits")
    assert outcome.nodes("Reshape")[0].input[0] == product.input[1] == "table_Q8"
    assert gather.input[2] == product.input[2] == "table_scales"


def test_a_tied_table_in_4_bits_is_stored_once_where_no_data_choose_codes(tmp_path: Path) -> None:
    outcome = proven(tied(four()), tmp_path, targets=2, feed=IDS, embeddings=4)
    assert outcome.op_types == ["Reshape", "GatherBlockQuantized", "MatMulNBits"]
    assert [t.bits for t in outcome.report.targets] == [4, 4]


def test_a_product_that_is_to_have_fewer_bits_is_stored_by_itself(tmp_path: Path) -> None:
    outcome = proven(tied(eight()), tmp_path, targets=2, feed=IDS, tolerance=0.2, schemes={"^y$": {"bits": 4}})
    assert outcome.op_types == ["GatherBlockQuantized", "MatMulNBits"]
    assert [(t.bits, t.shares) for t in outcome.report.targets] == [(8, ""), (4, "")]
    (note,) = (warning for warning in outcome.report.warnings if "more than once" in warning)
    assert "'e'" in note


@pytest.mark.parametrize(("node", "bits"), [("^e$", 4), ("^y$", 8), ("^e$", 8), (".", 4)])
def test_a_scheme_by_name_is_one_for_the_copy(node: str, bits: int, tmp_path: Path) -> None:
    schemes = {node: {"bits": bits, "block_size": 32}}
    outcome = proven(
        tied(four()), tmp_path, targets=2, feed=IDS, tolerance=0.2, embeddings=8, scheme=Scheme(), schemes=schemes
    )
    if (node, bits) == (".", 4):  # also for a product of fewer bits than tables have, where the table has them too
        assert [t.bits for t in outcome.report.targets] == [4, 4]
    assert outcome.op_types == ["Reshape", "GatherBlockQuantized", "MatMulNBits"]
    assert {(t.bits, t.block_size) for t in outcome.report.targets} == {(bits, 32)}
    assert not [warning for warning in outcome.report.warnings if "more than once" in warning]


def test_floats_untie(tmp_path: Path) -> None:
    outcome = proven(tied(four()), tmp_path, feed=IDS, embeddings="float")
    assert outcome.op_types == ["Gather", "MatMulNBits"]
    assert "table" in outcome.initializers


def test_rows_that_are_no_whole_blocks_are_stored_twice(tmp_path: Path) -> None:
    table = four(88)
    proto = model(TIED, x="int64[M, L] ids", y="float[M, L, 256] y", table=table)
    outcome = proven(proto, tmp_path, targets=2, feed=IDS, tolerance=0.2)
    assert outcome.op_types == ["GatherBlockQuantized", "MatMulNBits"]


def test_inspect_tells_the_same_of_tied_tables(tmp_path: Path) -> None:
    outcome = proven(tied(eight()), tmp_path, targets=2, feed=IDS, **INT8)
    seen = inspect(outcome.source, algorithm="rtn", provider="cpu", scheme=Scheme())
    assert [(t.name, t.bits, t.bytes, t.shares) for t in seen.targets] == [
        (t.name, t.bits, t.bytes, t.shares) for t in outcome.report.targets
    ]


def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[Expected]]:
    """A tied model, quantized, and what it must hold."""
    meant: list[Expected] = []

    def spy(staged: Path, expected: Iterable[Expected], provider: ProviderName) -> int:
        meant.extend(expected)
        return verify(staged, meant, provider)

    monkeypatch.setattr(pipeline, "verify", spy)
    path = models.write(tied(eight()), tmp_path / "in.onnx")
    models.quantized_by_rtn(path, scheme=Scheme())
    return path.with_name("out.onnx"), meant


def test_both_nodes_of_a_tied_table_are_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, meant = written(tmp_path, monkeypatch)
    assert verify(path, meant, "cpu") == 2
    whole = path.read_bytes()
    for operator, attribute in (("GatherBlockQuantized", "block_size"), ("MatMulNBits", "block_size")):
        proto = onnx.ModelProto.FromString(whole)
        next(a for a in models.find(proto.graph.node, operator).attribute if a.name == attribute).i = 16
        models.write(proto, path)
        with pytest.raises(VerificationError, match="has other attributes than meant"):
            verify(path, meant, "cpu")
        proto = onnx.ModelProto.FromString(whole)
        node = models.find(proto.graph.node, operator)
        node.CopyFrom(models.constant(np.zeros((1, 1, 64), np.float32), node.output[0]))
        models.write(proto, path)
        with pytest.raises(VerificationError, match="nodes that read"):
            verify(path, meant, "cpu")
    proto = onnx.ModelProto.FromString(whole)
    tensor = next(t for t in proto.graph.initializer if t.name == "table_Q8")
    tensor.raw_data = bytes([tensor.raw_data[0] ^ 1]) + tensor.raw_data[1:]
    models.write(proto, path)
    with pytest.raises(VerificationError, match="decodes to other codes, scales or zero points"):
        verify(path, meant, "cpu")
