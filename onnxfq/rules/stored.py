"""Float constants of any other operator → the same in 8 or 4 bits, and nodes that make them floats again.

    Conv(x, w)  → Conv(x, Mul(Cast(codes), scales))

ONNX Runtime computes nodes on constants once, when it makes a session: the file is a quarter or less, while memory,
speed and kernels are those of the float constant. Its node stays what it is, and so do other nodes that read the same.

The codes are [N, blocks, block_size * bits / 8]: int8, or uint8 with two codes in a byte, low bits first. Those beyond
K, in the last block, stand for 0. Scales are [N, blocks, 1]; there are no zero points.

Source: `ConstantFolding` in ONNX Runtime; that it folds these nodes, and what it folds them to, was tried with ONNX
Runtime 1.31.1 for every operator of `STORED_INPUTS`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import ClassVar

import numpy as np

from onnxfq.arrays import Array, Uint8Array
from onnxfq.errors import SchemeError
from onnxfq.graph import Constant, Graph, Node, NodeProto, NotConstant, TensorFile, several_nodes, type_name
from onnxfq.packing import at_block_size, pack_rows, unpack_rows
from onnxfq.providers import ProviderName
from onnxfq.quantized import STORED_TYPES, QuantizedWeight
from onnxfq.rules.block_grids import on_grid
from onnxfq.rules.channels import Channels
from onnxfq.rules.gather_block_quantized import SMALLEST_TABLE
from onnxfq.rules.kernel import Kernel
from onnxfq.rules.product_weights import BOTH_CONSTANT, chosen_by_caller
from onnxfq.rules.rule import Probe, Rule, Tensors, TensorType, WrittenWeight
from onnxfq.rules.stored_nodes import StoredNodes
from onnxfq.rules.stored_operators import STORED_INPUTS, channels_of, is_moving, moves_weights
from onnxfq.rules.target import SCALE_TYPES, Skip, Target
from onnxfq.rules.unfit_weights import left_alone
from onnxfq.scheme import Scheme

SMALLEST_STORED = 1024  # values; the nodes and names of a smaller one take as much as its codes save
SHORTEST_ROW = 8  # values; a scale for fewer takes half of what 8 bits save
_FEWEST_SIDES = 2  # axes longer than 1: vectors are norms, biases and factors
_OLDEST_OPSET = 7  # from which Mul repeats its smaller operand
_SIGN = np.uint8(128)
_BITS = (4, 8)
_PROBE_OPSET = 17


class Stored(Rule):
    """Weights that are small in the file and floats in memory."""

    operator = ""
    kind = "others"
    replaces = tuple(dict.fromkeys(op_type for op_type, _ in STORED_INPUTS))
    inputs: ClassVar[Mapping[str, int]] = {"codes": 0, "scales": 1}
    domain = ""

    def match(self, graph: Graph, node: Node) -> Sequence[Target] | Skip | None:
        """See `Rule.match`; what is small, or no matrix, is no business of this rule."""
        found = [self._look(graph, node, i) for i in STORED_INPUTS.get((node.op_type, node.domain), {})]
        targets = [one for one in found if isinstance(one, Target)]
        return targets or next((one for one in found if isinstance(one, Skip)), None)

    def _look(self, graph: Graph, node: Node, index: int) -> Target | Skip | None:
        """One input of a node."""
        if index >= len(node.inputs) or not node.inputs[index]:
            return None
        value = graph.constant(node, index)
        if isinstance(value, NotConstant):
            return Skip(node.name, node.op_type, value.reason, quantized=True) if value.quantized else None
        if value.way.part:  # what takes the part is the node that reads the weight
            return None
        channels = channels_of(node, index, value.shape)
        if node.op_type == "Gather" and (channels is None or math.prod(value.shape) < SMALLEST_TABLE):
            return None
        if is_moving(node) and not moves_weights(graph, node):
            return None
        if not _is_large(value) or type_name(value.type) not in (*SCALE_TYPES, "float64"):
            return None
        reason = _why_not(graph, node, value, channels)
        if node.references:
            return chosen_by_caller(node)
        if reason or channels is None:
            return left_alone(node, value, reason)
        return Target(
            name=node.name,
            node=node,
            weight=_seen_as(value, channels),
            n=channels.n,
            k=channels.k,
            transposed=False,
            alpha=1.0,
            scale_type=SCALE_TYPES[type_name(value.type)],
            slot=index,
            channels=channels,
        )

    def kernel(self, provider: ProviderName, scheme: Scheme, target: Target) -> Kernel:
        """See `Rule.kernel`; blocks beyond a row mean the whole row."""
        if scheme.bits not in _BITS or not scheme.symmetric or scheme.block_size == "tensor":
            raise SchemeError(
                f"Constants that become floats when a model is loaded are stored in 4 or 8 bits, symmetric, by channel "
                f"or block (got {scheme}). Use bits=8, or leave their nodes out with `exclude=NAME`."
            )
        block_size = min(scheme.columns_per_block(target.k), target.k)
        block_size += block_size % 2 if scheme.bits < 8 else 0  # whole bytes
        return Kernel(provider, scheme.bits, block_size, True, 0, target.scale_type, "fast")

    def layout(self, n: int, k: int, kernel: Kernel) -> dict[str, TensorType]:
        """See `Rule.layout`."""
        blocks = -(-k // kernel.block_size)
        codes = np.dtype(np.int8 if kernel.bits == 8 else np.uint8)
        return {
            "codes": ((n, blocks, kernel.block_size * kernel.bits // 8), codes),
            "scales": ((n, blocks, 1), STORED_TYPES[kernel.activation_type]),
        }

    def pack(self, q: QuantizedWeight, kernel: Kernel) -> dict[str, Array]:
        """See `Rule.pack`."""
        at = at_block_size(q, kernel.block_size)
        n, blocks = at.scale.shape
        width = kernel.block_size * at.bits // 8
        codes: Array = pack_rows(at.codes, at.zero_point, kernel.block_size, at.bits, blocks * width)
        codes = (codes ^ _SIGN).view(np.int8) if at.bits == 8 else codes
        scales = at.scale.astype(STORED_TYPES[at.scale_type])
        return {"codes": codes.reshape(n, blocks, width), "scales": scales.reshape(n, blocks, 1)}

    def unpack(self, tensors: Tensors, kernel: Kernel, k: int) -> QuantizedWeight:
        """See `Rule.unpack`."""
        n, blocks, _ = tensors["scales"].shape
        packed: Uint8Array = np.ascontiguousarray(tensors["codes"]).view(np.uint8).reshape(n, -1)
        codes = unpack_rows(packed ^ _SIGN if kernel.bits == 8 else packed, kernel.bits, k)
        return on_grid(codes, tensors["scales"].reshape(n, blocks), None, kernel)

    def attributes(self, n: int, k: int, kernel: Kernel) -> dict[str, int]:
        """See `Rule.attributes`: the node keeps its own."""
        return {}

    def rewrite(self, graph: Graph, weights: Sequence[WrittenWeight], tensor_file: TensorFile) -> None:
        """See `Rule.rewrite`: the node reads the constants that are made of the stored ones, made once for all."""
        node = weights[0].target.node
        rewired = graph.rewired(node, {w.target.slot: _made(graph, w) for w in weights})
        graph.replace(node, [rewired], keeps_name=rewired)

    def probe(self, tensors: Tensors, kernel: Kernel, n: int, k: int) -> Probe:
        """See `Rule.probe`: the constant itself."""
        constants: dict[str, Array] = dict(tensors)

        def add(name: str, value: Array) -> str:
            constants[f"{name}{len(constants)}"] = value
            return list(constants)[-1]

        numbers = count()
        made = StoredNodes(lambda name: f"{name}/{next(numbers)}", add, _PROBE_OPSET)
        names = {name: name for name in tensors}
        value = made.make(names, kernel, Channels((n, k), (n, k), (0,)))
        expected = self.unpack(tensors, kernel, k).dequantize().astype(STORED_TYPES[kernel.activation_type])
        model = several_nodes(made.nodes, {}, constants, value, _PROBE_OPSET)
        return Probe(model, {}, expected.astype(np.float64), 0.0)


def _is_large(value: Constant) -> bool:
    return math.prod(value.shape) >= SMALLEST_STORED and sum(size > 1 for size in value.shape) >= _FEWEST_SIDES


def _why_not(graph: Graph, node: Node, value: Constant, channels: Channels | None) -> str:
    """Why a large constant is left as it is; "" where nothing speaks against storing it small."""
    if type_name(value.type) not in SCALE_TYPES:
        return f"unsupported type: {type_name(value.type)} weights (float32, float16 and bfloat16 are stored small)"
    if channels is None:
        return f"unsupported shape: {list(value.shape)}, of which nothing tells what an output is made of"
    if channels.k < SHORTEST_ROW:
        return f"too small: {channels.k} weights for an output (a scale for fewer than {SHORTEST_ROW} is not worth it)"
    if graph.opset(node) < _OLDEST_OPSET:
        return f"operator set {graph.opset(node)} is too old for constants that are made of others (wanted: 7 or later)"
    if not is_moving(node) and all(
        isinstance(graph.constant(node, i), Constant) for i, name in enumerate(node.inputs) if name
    ):
        return BOTH_CONSTANT
    return ""


def _seen_as(value: Constant, channels: Channels) -> Constant:
    """A constant as the matrix of its channels."""
    way = value.way
    for step in channels.steps:
        way = way.then(step)
    return replace(value, way=way)


def _made(graph: Graph, weight: WrittenWeight) -> str:
    """The name of the float constant that is made of a stored one; the nodes for it are added once."""
    target, channels = weight.target, weight.target.channels
    home = target.weight.home
    assert channels is not None

    def make() -> list[NodeProto]:
        made = StoredNodes(
            lambda name: graph.edits.fresh_name(f"stored/{name}"),
            lambda name, value: graph.small_constant(home, f"stored/{name}", value),
            graph.opset(target.node),
        )
        made.make(weight.names, weight.kernel, channels)
        return made.nodes

    return graph.edits.made_constant(home, weight.names["codes"], make)
