"""Which MatMulNBits kernels ONNX Runtime has, and which of them pay: the table as data, and the choice from it.

A kernel is a point (provider, bits, block_size, symmetric, accuracy_level, activation_type). What is not in the table
does not exist. "slow" means slower than the floating-point MatMul it would replace.

It says which kernels never pay, whatever the rows: those that fall back to a generic one, as measured with ONNX Runtime
1.31.1 on x86-64 by `benchmarks/kernel_speed.py`. How fast the others are depends on instructions, width and rows: that
is in the tables of `known_speeds`. On processors of which there is no table, speed is unknown, and nothing is refused,
advised or told because of it. CUDA rows were read in ONNX Runtime's source and not run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import product
from typing import get_args

from onnxfq.errors import SchemeError
from onnxfq.providers import ProviderName
from onnxfq.rules.kernel import ActivationType, Kernel, Speed
from onnxfq.rules.known_speeds import packaged
from onnxfq.scheme import BITS, BLOCK_SIZES, Activations, ScaleType, Scheme
from onnxfq.system.processor import instructions

ACCURACY_LEVELS: dict[Activations, int] = {"int8": 4, "float": 0}
COLUMNS = ("provider", "activations", "bits", "zero points", "accuracy_level", "fast blocks", "slow blocks", "note")

_UNMEASURED = "not measured on a processor like this one"
_FEW_ROWS = "pays for few rows only"
_FALLBACK = "falls back to a generic kernel that dequantizes on every call"
_FUSED = "read in ONNX Runtime's source, not run: fused for few rows, otherwise dequantizes and multiplies"
_OPT_IN = "read in ONNX Runtime's source, not run: ep.cuda.fpa_intb_gemm=1 has a faster kernel where N % 64 = 0"


def choose(provider: ProviderName, scheme: Scheme, activation_type: ActivationType, n: int, k: int) -> Kernel:
    """The kernel that runs a weight of `n` outputs and `k` inputs under a scheme.

    "channel" and "tensor" take the largest fast block size that is not needlessly above K. A block larger than K
    means the same as the smallest that holds K.

    Raises:
        SchemeError: ONNX Runtime has no such kernel; the message names the nearest that it has.
    """
    kernels = {kernel.block_size: kernel for kernel in _kernels(provider, scheme, activation_type)}
    if not kernels:
        raise SchemeError(_absent(provider, scheme, activation_type))
    return _for_processor(_for_shape(kernels[_block_size(scheme, kernels, k)], n, k))


def nearest_fast(
    provider: ProviderName, scheme: Scheme, activation_type: ActivationType, n: int, k: int
) -> tuple[Scheme, Kernel] | None:
    """The fast scheme that differs least from `scheme`, with its kernel; None where nothing is fast for the shape."""
    for candidate in sorted(_schemes(scheme), key=lambda other: _distance(scheme, other)):
        if _kernels(provider, candidate, activation_type):
            kernel = choose(provider, candidate, activation_type, n, k)
            if kernel.speed == "fast":
                return candidate, kernel
    return None


def rows(provider: ProviderName | None = None) -> list[tuple[str, ...]]:
    """The table for people, one row for kernels that differ in block size only; `COLUMNS` are the headings."""
    groups: dict[tuple[ProviderName, ActivationType, int, bool, int], list[Kernel]] = {}
    for kernel in table():
        if provider in (None, kernel.provider):
            key = (kernel.provider, kernel.activation_type, kernel.bits, kernel.symmetric, kernel.accuracy_level)
            groups.setdefault(key, []).append(kernel)
    return [_row(group) for group in groups.values()]


@cache
def table() -> tuple[Kernel, ...]:
    """Every kernel there is."""
    return (*_cpu(), *_cuda())


def _cpu() -> Iterator[Kernel]:
    """Zero-point form and float type of the activations hardly matter on CPU; bits and accuracy level do."""
    types: tuple[ActivationType, ...] = ("float32", "float16")
    for activation_type, bits, symmetric, level in product(types, BITS, (False, True), (0, 4)):
        for block_size in BLOCK_SIZES:
            fast = bits == 4 or (level == 4 and (bits == 8 or 32 <= block_size <= 128))
            few_rows = level == 0 or (bits == 2 and block_size == 32)
            note = _FALLBACK if not fast else _FEW_ROWS if few_rows else ""
            yield Kernel("cpu", bits, block_size, symmetric, level, activation_type, "fast" if fast else "slow", note)


def _cuda() -> Iterator[Kernel]:
    """Fused matrix-vector kernels for blocks up to 128, and for all others dequantization before every product."""
    for activation_type, bits, symmetric, level in product(get_args(ScaleType), (4, 8), (False, True), (0, 4)):
        for block_size in BLOCK_SIZES:
            opt_in = symmetric and block_size == 32 and activation_type != "float32"
            note = _OPT_IN if opt_in else _FUSED
            speed: Speed = "slow" if block_size > 128 else "fast"
            yield Kernel("cuda", bits, block_size, symmetric, level, activation_type, speed, note)


def _kernels(provider: ProviderName, scheme: Scheme, activation_type: ActivationType) -> list[Kernel]:
    """The kernels of a scheme, of any block size."""
    wanted = (provider, scheme.bits, scheme.symmetric, ACCURACY_LEVELS[scheme.activations], activation_type)
    return [
        kernel
        for kernel in table()
        if (kernel.provider, kernel.bits, kernel.symmetric, kernel.accuracy_level, kernel.activation_type) == wanted
    ]


def _block_size(scheme: Scheme, kernels: dict[int, Kernel], k: int) -> int:
    """The kernel's block size for rows of `k` weights."""
    fast = [block_size for block_size, kernel in kernels.items() if kernel.speed == "fast"]
    if not isinstance(scheme.block_size, int):
        offered = fast or list(kernels)
        return min((block_size for block_size in offered if block_size >= k), default=max(offered))
    if scheme.block_size <= k:
        return scheme.block_size
    return min((block_size for block_size in fast if k <= block_size <= scheme.block_size), default=scheme.block_size)


def _for_shape(kernel: Kernel, n: int, k: int) -> Kernel:
    """The same kernel, "slow" where its fast path does not take the shape."""
    if kernel.provider == "cuda" and (n % 8 or k % 8):
        return replace(
            kernel, speed="slow", note=f"{_FUSED}; never fused here: N={n} and K={k} are not both multiples of 8"
        )
    return kernel


def is_measured(provider: ProviderName) -> bool:
    """Whether the table's speeds hold here: those of the CPU do with the instructions that they were seen with."""
    return provider != "cpu" or instructions() in packaged()


def _for_processor(kernel: Kernel) -> Kernel:
    """The same kernel, "unknown" where its speed was never seen; which block it has does not depend on the machine."""
    return kernel if is_measured(kernel.provider) else replace(kernel, speed="unknown", note=_UNMEASURED)


def _schemes(scheme: Scheme) -> Iterator[Scheme]:
    """All schemes of the same kind of granularity."""
    block_sizes = BLOCK_SIZES if isinstance(scheme.block_size, int) else (scheme.block_size,)
    for values in product(BITS, block_sizes, (False, True), get_args(Activations)):
        yield Scheme(*values)


def _distance(one: Scheme, other: Scheme) -> float:
    """How much a user would notice the exchange: bits most, then steps of block size, zero points, activations."""
    distance = 4 * abs(math.log2(one.bits / other.bits))
    distance += (one.symmetric != other.symmetric) + 1.5 * (one.activations != other.activations)
    if isinstance(one.block_size, int) and isinstance(other.block_size, int):
        distance += abs(math.log2(one.block_size / other.block_size))
    return distance


def _absent(provider: ProviderName, scheme: Scheme, activation_type: ActivationType) -> str:
    """What to say where no kernel exists."""
    got = f"(got {scheme}, {activation_type} on {provider})"
    types = sorted({kernel.activation_type for kernel in table() if kernel.provider == provider})
    if activation_type not in types:
        return (
            f"ONNX Runtime's MatMulNBits takes no {activation_type} activations on {provider} {got}. "
            f"Wanted {' or '.join(types)}: convert the model, or choose another provider."
        )
    exists = (other for other in _schemes(scheme) if _kernels(provider, other, activation_type))
    nearest = min(exists, key=lambda other: _distance(scheme, other))
    return f"ONNX Runtime's MatMulNBits has no kernel for this scheme {got}. The nearest it has is {nearest}."


def _row(group: list[Kernel]) -> tuple[str, ...]:
    first = group[0]
    blocks = {speed: [str(kernel.block_size) for kernel in group if kernel.speed == speed] for speed in get_args(Speed)}
    return (
        first.provider,
        first.activation_type,
        str(first.bits),
        "default" if first.symmetric else "packed",
        str(first.accuracy_level),
        " ".join(blocks["fast"]) or "none",
        " ".join(blocks["slow"]) or "none",
        "; ".join(dict.fromkeys(kernel.note for kernel in group if kernel.note)),
    )
