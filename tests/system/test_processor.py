"""What the processor is said to have."""

from __future__ import annotations

import platform

import llvmlite.binding
import pytest

from onnxfq.system.processor import instructions


@pytest.mark.parametrize(
    ("features", "name"),
    [
        ({"avx2": True, "avx512vnni": True, "avxvnni": True, "avx512f": True}, "AVX512-VNNI"),
        ({"avx2": True, "avx512vnni": False, "avxvnni": True}, "AVX-VNNI"),
        ({"avx2": True, "avx512f": True}, "AVX512"),
        ({"avx2": True, "avx512vnni": False}, "AVX2"),
        ({"dotprod": True, "i8mm": True}, "Arm I8MM"),
        ({"dotprod": True}, "Arm dot product"),
        ({}, platform.machine()),
    ],
)
def test_the_best_instructions_are_named(features: dict[str, bool], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llvmlite.binding, "get_host_cpu_features", lambda: features)
    instructions.cache_clear()
    assert instructions() == name
    instructions.cache_clear()


def test_a_processor_that_llvm_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> dict[str, bool]:
        raise RuntimeError("failed to get host cpu features.")

    monkeypatch.setattr(llvmlite.binding, "get_host_cpu_features", fail)
    instructions.cache_clear()
    assert instructions() == platform.machine()
    instructions.cache_clear()
