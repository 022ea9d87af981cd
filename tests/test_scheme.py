from __future__ import annotations

from typing import Any

import pytest

from onnxfq.errors import SchemeError, UsageError
from onnxfq.scheme import BITS, BLOCK_SIZES, Granularity, Scheme


def test_default() -> None:
    assert Scheme() == Scheme(bits=4, block_size=32, symmetric=False, activations="int8")


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("block_size", [*BLOCK_SIZES, "channel", "tensor"])
def test_every_offered_value_is_taken(bits: int, block_size: int | Granularity) -> None:
    scheme = Scheme(bits, block_size)
    assert scheme.levels == 2**bits
    assert scheme.default_zero_point == scheme.levels // 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"bits": 3}, "3 bits a weight do not exist (got bits=3). Use 2, 4 or 8."),
        ({"block_size": 24}, "Block size 24 is not a power of two (got block_size=24)."),
        ({"block_size": 512}, "Block size 512 is out of range (got block_size=512)."),
        ({"block_size": 8}, "Block size 8 is out of range (got block_size=8)."),
        ({"block_size": 0}, "Block size 0 is out of range (got block_size=0)."),
        ({"block_size": "row"}, "Unknown block size 'row' (got block_size=row)."),
        ({"activations": "fp8"}, "Unknown activations (got activations='fp8'). Use 'int8' or 'float'."),
    ],
)
def test_wrong_values_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemeError) as raised:
        Scheme(**wrong)
    assert str(raised.value).startswith(message)
    assert isinstance(raised.value, UsageError)


def test_columns_per_block() -> None:
    assert Scheme(block_size=64).columns_per_block(100) == 64
    assert Scheme(block_size="channel").columns_per_block(100) == 100
    assert Scheme(block_size="tensor").columns_per_block(100) == 100


@pytest.mark.parametrize(
    ("scheme", "text"),
    [
        (Scheme(), "int4, block 32, asymmetric, activations int8"),
        (Scheme(8, "channel", True, "float"), "int8, per channel, symmetric, activations float"),
    ],
)
def test_text(scheme: Scheme, text: str) -> None:
    assert str(scheme) == text
