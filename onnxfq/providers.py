"""Execution providers: what is known of each, as data. Code asks for a fact and never compares a name.

To add a provider: its name, a row here, and its kernels (`onnxfq.rules`). Nothing else compares a name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ProviderName = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """Facts about an execution provider.

    Attributes:
        title: its name in sentences.
        ort_name: what ONNX Runtime calls it.
        built_in: every ONNX Runtime has it and it needs no device, so that nobody has to try whether it runs.
        preloads: its libraries may lie in Python packages, from which ONNX Runtime loads them on request.
        remedy: what to do where it does not run.
        host_memory: it computes in host memory: that memory limits its speed, and its time is the processors' time.
        widens_half: sessions hold weights of half precision as float32 and compute with that.
        fuses_bias: MatMulNBits takes its `bias` input in the same kernel; elsewhere one without it is chosen.
        rounds_activations: MatMulNBits rounds its activations to int8 on the fly where accuracy_level is 4.
        multiplies_int8: products of int8 with int8 run as such.
        fuses_layers: QMoE and DynamicQuantizeLSTM run.
        prefers_symmetric: kernels without zero points are the default: its source has special ones for them.
    """

    title: str
    ort_name: str
    built_in: bool = False
    preloads: bool = False
    remedy: str = ""
    host_memory: bool = False
    widens_half: bool = False
    fuses_bias: bool = False
    rounds_activations: bool = False
    multiplies_int8: bool = False
    fuses_layers: bool = False
    prefers_symmetric: bool = False


# In order of preference: of those that run, "auto" takes the last.
PROVIDERS: dict[ProviderName, Provider] = {
    "cpu": Provider(
        title="the CPU",
        ort_name="CPUExecutionProvider",
        built_in=True,
        host_memory=True,
        widens_half=True,
        fuses_bias=True,
        rounds_activations=True,
        multiplies_int8=True,
        fuses_layers=True,
    ),
    "cuda": Provider(
        title="CUDA",
        ort_name="CUDAExecutionProvider",
        preloads=True,
        remedy="Install ONNX Runtime's CUDA libraries with `pip install onnxfq[cuda]`, check the driver with "
        "nvidia-smi",
        prefers_symmetric=True,
    ),
}
FALLBACK: ProviderName = "cpu"  # runs everywhere; ONNX Runtime gives it what another provider has no kernel for


def facts(provider: ProviderName) -> Provider:
    """What is known of a provider."""
    return PROVIDERS[provider]
