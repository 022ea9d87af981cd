"""What a file can be made for (`target`): each kind of machine, as data.

A machine decides whose kernels run the file, which table judges their speed, and what must not be in it. Code asks for
a fact and never compares a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnxfq.errors import UsageError
from onnxfq.providers import ProviderName, facts
from onnxfq.system.processor import instructions
from onnxfq.weight_formats import FORMATS, Format

AUTO = "auto"
_BITS = (2, 4, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Facts about a kind of machine.

    Attributes:
        name: what the user writes.
        title: in sentences.
        provider: whose kernels run the file there.
        instructions: those of `system.processor` whose table of speeds judges; "" where nothing was measured.
        prefers_symmetric: kernels without zero points are the default.
        formats: of weights that run there; the first is the default.
        table_bits: of embeddings that run there; with none, tables stay in float.
        why: reason for the limits, with its source, for messages.
    """

    name: str
    title: str
    provider: ProviderName = "cpu"
    instructions: str = ""
    prefers_symmetric: bool = False
    formats: tuple[Format, ...] = tuple(FORMATS)
    table_bits: tuple[int, ...] = _BITS
    why: str = ""


_CUDA = "its kernels are MatMulNBits' (by ONNX Runtime's source, not run here)"
_WEBGPU = "its kernels are MatMulNBits' and GatherBlockQuantized's of 4 and 8 bits (by ONNX Runtime's source, not run)"
_PORTABLE = "other runtimes have standard ONNX operators only"
MACHINES: Mapping[str, Machine] = {
    machine.name: machine
    for machine in (
        Machine(name="avx2", title="x86-64 with AVX2", instructions="AVX2"),
        Machine(name="vnni", title="x86-64 with AVX512-VNNI", instructions="AVX512-VNNI"),
        Machine(name="arm", title="ARM"),
        Machine(
            name="cuda",
            title="CUDA",
            provider="cuda",
            prefers_symmetric=True,
            formats=("matmulnbits", "qdq"),
            why=_CUDA,
        ),
        Machine(
            name="webgpu",
            title="WebGPU",
            prefers_symmetric=True,
            formats=("matmulnbits", "qdq"),
            table_bits=(4, 8),
            why=_WEBGPU,
        ),
        Machine(
            name="portable",
            title="any runtime of standard ONNX",
            formats=("qdq", "int8", "dgq"),
            table_bits=(),
            why=_PORTABLE,
        ),
    )
}


def find_machine(target: str, provider: ProviderName) -> Machine:
    """What a file is made for.

    Args:
        target: what the user wrote; "auto" is the machine that this runs on.
        provider: where models run here.
    """
    if target != AUTO:
        return MACHINES[check_target(target)]
    if not facts(provider).host_memory:
        return MACHINES[provider]
    return Machine(name=AUTO, title="this machine", instructions=instructions())


def check_target(target: str) -> str:
    """Refuse what is no target.

    Raises:
        UsageError: with those that there are.
    """
    if target != AUTO and target not in MACHINES:
        raise UsageError(f"There is no such target (got target={target!r}). Use {AUTO}, {', '.join(MACHINES)}.")
    return target
