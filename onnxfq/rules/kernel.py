"""One way in which ONNX Runtime computes with a quantized weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onnxfq.providers import ProviderName
from onnxfq.scheme import ScaleType

Speed = Literal["fast", "slow", "unknown"]
ActivationType = ScaleType  # scales have the type of the activations


@dataclass(frozen=True, slots=True)
class Kernel:
    """One way in which ONNX Runtime computes with a quantized weight.

    Attributes:
        provider: "cpu" or "cuda".
        bits: 2, 4 or 8.
        block_size: 16 to 256, what the node's attribute will say.
        symmetric: there is no `zero_points` input.
        accuracy_level: of MatMulNBits: 4 rounds the activations to int8 on the fly, 0 does not; CUDA ignores it.
        activation_type: the type of scales and of what is computed.
        speed: "fast", "slow" where not quantizing is faster, "unknown" where nobody measured it on such a processor.
        note: what else there is to know, with its source.
    """

    provider: ProviderName
    bits: int
    block_size: int
    symmetric: bool
    accuracy_level: int
    activation_type: ActivationType
    speed: Speed
    note: str = ""
