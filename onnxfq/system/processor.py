"""Which instructions for products of small integers the processor has: what kernels for few bits are fast with."""

from __future__ import annotations

import platform
import re
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path

import llvmlite.binding

# By LLVM's names, those that a kernel would rather use first.
_INSTRUCTIONS = {
    "amx-int8": "AMX-INT8",
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


@cache
def processor_name() -> str:
    """What the maker calls it; the kind of processor where nothing tells."""
    with suppress(OSError):
        if found := re.search(
            r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE
        ):
            return found[1].strip()
    with suppress(OSError, subprocess.SubprocessError):
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]  # macOS
        told = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
        if told:
            return told
    return platform.processor() or platform.machine()
