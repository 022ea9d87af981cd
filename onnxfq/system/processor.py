"""Which instructions for products of small integers the processor has: what kernels for few bits are fast with."""

from __future__ import annotations

import platform
from functools import cache

import llvmlite.binding

# By LLVM's names, those that a kernel would rather use first.
_INSTRUCTIONS = {
    "avx512vnni": "AVX512-VNNI",
    "avxvnni": "AVX-VNNI",
    "avx512f": "AVX512",
    "avx2": "AVX2",
    "i8mm": "Arm I8MM",
    "dotprod": "Arm dot product",
}


@cache
def instructions() -> str:
    """The best that there are, such as "AVX512-VNNI"; the kind of processor where nothing tells."""
    try:
        features = llvmlite.binding.get_host_cpu_features()
    except RuntimeError:  # LLVM does not know every processor
        features = {}
    return next((name for feature, name in _INSTRUCTIONS.items() if features.get(feature)), platform.machine())
