"""Every kernel that a rule offers, asked of the rule itself."""

from __future__ import annotations

from itertools import product
from typing import Any, get_args

from onnx import GraphProto, NodeProto

from onnxfq.errors import SchemeError
from onnxfq.graph import Body, Node
from onnxfq.providers import ProviderName
from onnxfq.rules import Kernel, Rule, Target
from onnxfq.scheme import BITS, BLOCK_SIZES, Activations, Granularity, ScaleType, Scheme

SIZES: tuple[int | Granularity, ...] = (*BLOCK_SIZES, "channel", "tensor")
SCHEMES = [Scheme(*values) for values in product(BITS, SIZES, (False, True), get_args(Activations))]


def bare(n: int, k: int, scale_type: ScaleType) -> Target:
    """A target of some shape and type in no graph at all: what a rule looks at to choose a kernel."""
    nothing: Any = None
    node = Node(NodeProto(), Body(GraphProto()))
    return Target("node", node, nothing, n, k, transposed=False, alpha=1.0, scale_type=scale_type)


def offered(rule: Rule, provider: ProviderName = "cpu", n: int = 40, k: int = 280) -> list[Kernel]:
    """The kernels that some scheme leads to, each once."""
    found: dict[Kernel, None] = {}
    for scheme, scale_type in product(SCHEMES, get_args(ScaleType)):
        try:
            found[rule.kernel(provider, scheme, bare(n, k, scale_type))] = None
        except SchemeError:
            continue
    return list(found)


def kernel_name(kernel: Kernel) -> str:
    """For the names of tests."""
    form = "default" if kernel.symmetric else "packed"
    return f"{kernel.activation_type}-int{kernel.bits}-b{kernel.block_size}-{form}-level{kernel.accuracy_level}"
