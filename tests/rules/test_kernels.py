from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import get_args

import pytest

from onnxfq.errors import SchemeError
from onnxfq.providers import ProviderName
from onnxfq.rules.kernel import Kernel
from onnxfq.rules.matmul_nbits_kernels import COLUMNS, choose, nearest_fast, rows, table
from onnxfq.scheme import BITS, BLOCK_SIZES, Activations, Granularity, ScaleType, Scheme


def test_no_kernel_stands_twice() -> None:
    points = [(k.provider, k.bits, k.block_size, k.symmetric, k.accuracy_level, k.activation_type) for k in table()]
    assert len(points) == len(set(points))


def test_defaults_are_fast() -> None:
    kernel = choose("cpu", Scheme(), "float32", 384, 384)
    assert (kernel.bits, kernel.block_size, kernel.accuracy_level, kernel.speed) == (4, 32, 4, "fast")
    assert choose("cuda", Scheme(symmetric=True), "float16", 512, 512).speed == "fast"


@pytest.mark.parametrize(
    ("bits", "block_size", "activations", "speed"),
    [
        (4, 16, "int8", "fast"),
        (4, 256, "int8", "fast"),
        (4, 32, "float", "fast"),
        (8, 32, "int8", "fast"),
        (8, 32, "float", "slow"),
        (2, 16, "int8", "slow"),
        (2, 64, "int8", "fast"),
        (2, 256, "int8", "slow"),
        (2, 64, "float", "slow"),
    ],
)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("activation_type", ["float32", "float16"])
def test_speed_on_cpu(
    bits: int,
    block_size: int | Granularity,
    activations: Activations,
    speed: str,
    symmetric: bool,
    activation_type: ScaleType,
) -> None:
    kernel = choose("cpu", Scheme(bits, block_size, symmetric, activations), activation_type, 1000, 1000)
    assert kernel.block_size == block_size
    assert kernel.accuracy_level == {"int8": 4, "float": 0}[activations]
    assert kernel.symmetric == symmetric
    assert kernel.activation_type == activation_type
    assert kernel.speed == speed


@pytest.mark.parametrize(
    ("bits", "block_size", "k", "expected"),
    [
        (4, "channel", 5000, 256),
        (4, "channel", 200, 256),
        (4, "channel", 100, 128),
        (4, "tensor", 16, 16),
        (4, "tensor", 3, 16),
        (2, "channel", 5000, 128),
        (2, "tensor", 10, 32),
        (4, 256, 100, 128),
        (4, 256, 200, 256),
        (4, 64, 64, 64),
        (2, 256, 20, 32),
        (2, 256, 200, 256),
        (2, 16, 10, 16),
        (4, 32, 1, 16),
    ],
)
def test_block_size_of_the_kernel(bits: int, block_size: int | Granularity, k: int, expected: int) -> None:
    assert choose("cpu", Scheme(bits, block_size), "float32", 64, k).block_size == expected


@pytest.mark.parametrize(("n", "k", "speed"), [(64, 64, "fast"), (50257, 768, "slow"), (64, 100, "slow")])
def test_shapes_that_cuda_does_not_fuse(n: int, k: int, speed: str) -> None:
    kernel = choose("cuda", Scheme(symmetric=True), "float16", n, k)
    assert kernel.speed == speed
    assert ("multiples of 8" in kernel.note) == (speed == "slow")


def test_types_that_a_provider_lacks() -> None:
    with pytest.raises(SchemeError) as raised:
        choose("cpu", Scheme(), "bfloat16", 64, 64)
    assert str(raised.value) == (
        "ONNX Runtime's MatMulNBits takes no bfloat16 activations on cpu "
        "(got int4, block 32, asymmetric, activations int8, bfloat16 on cpu). "
        "Wanted float16 or float32: convert the model, or choose another provider."
    )


def test_schemes_that_a_provider_lacks() -> None:
    with pytest.raises(SchemeError) as raised:
        choose("cuda", Scheme(bits=2, symmetric=True), "float16", 64, 64)
    assert str(raised.value) == (
        "ONNX Runtime's MatMulNBits has no kernel for this scheme "
        "(got int2, block 32, symmetric, activations int8, float16 on cuda). "
        "The nearest it has is int4, block 32, symmetric, activations int8."
    )


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        (Scheme(), Scheme()),
        (Scheme(8, 32, False, "float"), Scheme(8, 32, False, "int8")),
        (Scheme(2, 16), Scheme(2, 32)),
        (Scheme(2, 256, True), Scheme(2, 128, True)),
        (Scheme(2, "channel", False, "float"), Scheme(2, "channel", False, "int8")),
    ],
)
def test_nearest_fast_scheme(scheme: Scheme, expected: Scheme) -> None:
    found = nearest_fast("cpu", scheme, "float32", 1000, 1000)
    assert found is not None
    assert found == (expected, choose("cpu", expected, "float32", 1000, 1000))


def test_nothing_is_fast() -> None:
    assert nearest_fast("cuda", Scheme(symmetric=True), "float16", 7, 7) is None
    assert nearest_fast("cpu", Scheme(), "bfloat16", 64, 64) is None


@pytest.mark.parametrize("provider", get_args(ProviderName))
def test_every_scheme_has_a_kernel_or_a_message(provider: ProviderName) -> None:
    sizes: tuple[int | Granularity, ...] = (*BLOCK_SIZES, "channel", "tensor")
    for values in product(BITS, sizes, (False, True), get_args(Activations)):
        for activation_type in get_args(ScaleType):
            scheme = Scheme(*values)
            try:
                kernel = choose(provider, scheme, activation_type, 64, 4096)
            except SchemeError as error:
                assert str(scheme) in str(error)  # noqa: PT017 both outcomes are right, for different schemes
            else:
                assert isinstance(kernel, Kernel)
                assert kernel.speed == "fast" or kernel.note


def test_rows_hold_the_whole_table() -> None:
    everything = rows()
    assert all(len(row) == len(COLUMNS) for row in everything)
    blocks = (COLUMNS.index("fast blocks"), COLUMNS.index("slow blocks"))
    offered = [size for row in everything for column in blocks for size in row[column].split() if size != "none"]
    assert len(offered) == len(table())
    assert rows("cpu") + rows("cuda") == everything


@pytest.mark.parametrize("name", ["SSE4", "Arm I8MM", "Arm dot product", "riscv64"])
def test_nothing_is_said_of_speed_on_processors_that_were_not_measured(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a kernel does stays the same, so that files are; what it is said to be like does not."""
    sizes: tuple[int | Granularity, ...] = (*BLOCK_SIZES, "channel")
    ways = get_args(Activations)
    schemes = [Scheme(bits, size, False, way) for bits, size, way in product(BITS, sizes, ways)]
    known = [choose("cpu", scheme, "float32", 1000, 1000) for scheme in schemes]
    monkeypatch.setattr("onnxfq.rules.matmul_nbits_kernels.instructions", lambda: name)
    unknown = [choose("cpu", scheme, "float32", 1000, 1000) for scheme in schemes]
    assert {kernel.speed for kernel in unknown} == {"unknown"}
    assert not any(word in kernel.note for kernel in unknown for word in ("fast", "slow", "pays", "dequantizes"))
    assert [replace(kernel, speed="fast", note="") for kernel in unknown] == [
        replace(kernel, speed="fast", note="") for kernel in known
    ]
    assert nearest_fast("cpu", Scheme(8, activations="float"), "float32", 1000, 1000) is None
    assert choose("cuda", Scheme(symmetric=True), "float16", 512, 512).speed == "fast"
