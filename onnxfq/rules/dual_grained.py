"""MatMul, Gemm and Einsum with a constant weight → the product of int8, of a weight that is stored in 4 bits.

    codes [N, blocks, block / 2] → Mod(16), BitShift(4) → Concat → Cast(int8) → Sub(8)
        → Mul(multipliers) → Add(offsets) → Reshape [N, K] [→ Slice] → Transpose → as in `int8_product`

All of that is constant, and done once when a session is made: what runs is the same as of a weight stored in int8. A
byte holds two codes of one block, the one half a block further in its high bits. Codes beyond K are 0. Before operator
set 14 there is no arithmetic of int8, and float32 takes its place.

Source: folding was tried with ONNX Runtime 1.31.1; what is folded is not given free before the session is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from onnxfq.arrays import Array, Uint8Array
from onnxfq.dual_grain import BITS, DualGrid
from onnxfq.graph import Graph, Node, NodeProto, make_node
from onnxfq.packing import at_block_size
from onnxfq.providers import ProviderName
from onnxfq.quantized import QuantizedWeight
from onnxfq.rules.int8_product import Int8Product
from onnxfq.rules.kernel import Kernel
from onnxfq.rules.row_rounding import Place
from onnxfq.rules.rule import Tensors, TensorType
from onnxfq.rules.target import Target
from onnxfq.scheme import BLOCK_SIZES, Scheme

_INT8_FROM = 14  # the operator set from which Add, Sub and Mul take int8
_MIDDLE = 1 << (BITS - 1)  # codes are stored from 0 and multiplied from −8: then the product is int8 too
_FLOAT, _INT8 = 1, 3  # ONNX's numbers of types
_HANDING_ON = frozenset({"Transpose", "Slice", "Reshape", "Sub", "Cast", "Concat"})


class DualGrained(Int8Product):
    """Products of int8 with weights of 4 bits in blocks."""

    inputs: ClassVar[Mapping[str, int]] = {"codes": 0, "scales": 1}
    probe_opset: ClassVar[int] = _INT8_FROM

    def kernel(self, provider: ProviderName, scheme: Scheme, target: Target) -> Kernel:
        """See `Rule.kernel`; blocks beyond a row mean the same as the smallest that holds it."""
        wanted = min(scheme.columns_per_block(target.k), target.k)
        block_size = min((size for size in BLOCK_SIZES if size >= wanted), default=max(BLOCK_SIZES))
        return replace(super().kernel(provider, scheme, target), block_size=block_size)

    def layout(self, n: int, k: int, kernel: Kernel) -> dict[str, TensorType]:
        """See `Rule.layout`; scales are float32, whatever the activations are."""
        blocks, integer = -(-k // kernel.block_size), np.dtype(np.int8)
        return {
            "codes": ((n, blocks, kernel.block_size // 2), np.dtype(np.uint8)),
            "multipliers": ((n, blocks, 1), integer),
            "offsets": ((n, blocks, 1), integer),
            "scales": ((n,), np.dtype(np.float32)),
        }

    def pack(self, q: QuantizedWeight, kernel: Kernel) -> dict[str, Array]:
        """See `Rule.pack`."""
        at = at_block_size(q, kernel.block_size)
        assert at.row_scale is not None
        grid = DualGrid.of(at.scale, at.zero_point, at.row_scale)
        return {
            "codes": _packed(at.codes, kernel.block_size),
            "multipliers": grid.multiplier.astype(np.int8)[..., None],
            "offsets": (grid.offset + _MIDDLE * grid.multiplier).astype(np.int8)[..., None],
            "scales": grid.row_scale,
        }

    def unpack(self, tensors: Tensors, kernel: Kernel, k: int) -> QuantizedWeight:
        """See `Rule.unpack`."""
        multiplier = tensors["multipliers"][..., 0].astype(np.float32)
        offset = tensors["offsets"][..., 0].astype(np.float32) - _MIDDLE * multiplier
        grid = DualGrid(np.asarray(tensors["scales"], np.float32), multiplier, offset)
        packed = tensors["codes"]
        codes = np.concatenate([packed & 15, packed >> BITS], axis=2).reshape(len(packed), -1)[:, :k]
        return grid.quantized(np.ascontiguousarray(codes), kernel.block_size)

    def weight_nodes(
        self, place: Place, names: Mapping[str, str], kernel: Kernel, k: int
    ) -> tuple[list[NodeProto], str]:
        """See `Int8Product.weight_nodes`."""
        nodes: list[NodeProto] = []

        def step(op_type: str, *inputs: str, word: str, **attributes: Any) -> str:
            output = place.fresh(f"{names['codes']}_{word}")
            nodes.append(make_node(op_type, list(inputs), [output], **attributes))
            return output

        exact = place.opset >= _INT8_FROM
        kind, dtype = (_INT8, np.int8) if exact else (_FLOAT, np.float32)
        factors = [names["multipliers"], names["offsets"]]
        if not exact:
            factors = [step("Cast", name, word="real", to=kind) for name in factors]
        low = step("Mod", names["codes"], place.constant("codes_count", np.array(1 << BITS, np.uint8)), word="low")
        bits = place.constant("codes_bits", np.array(BITS, np.uint8))
        high = step("BitShift", names["codes"], bits, word="high", direction="RIGHT")
        codes = step("Cast", step("Concat", low, high, word="codes", axis=2), word="signed", to=kind)
        centred = step("Sub", codes, place.constant("codes_middle", np.array(_MIDDLE, dtype)), word="centred")
        value = step("Add", step("Mul", centred, factors[0], word="wide"), factors[1], word="blocks")
        value = step("Reshape", value, place.constant("rows_shape", np.array([0, -1], np.int64)), word="rows")
        if not exact:
            value = step("Cast", value, word="integers", to=_INT8)
        if k % kernel.block_size:
            limits = [place.constant(f"{name}_{number}", np.array([number], np.int64))
                      for name, number in (("rows_from", 0), ("rows_to", k), ("rows_along", 1))]  # fmt: skip
            value = step("Slice", value, *limits, word="cut")
        more, value = super().weight_nodes(place, {**names, "W": value}, kernel, k)
        return [*nodes, *more], value

    def written_names(self, graph: Graph, node: Node, slot: int) -> dict[str, str]:
        """See `Rule.written_names`: back through the nodes above."""
        found, scales = dict[str, str](), node.inputs[1]
        step = graph.producer(node, 0)
        while step is not None and "codes" not in found:
            if step.op_type == "Mod":
                found["codes"] = step.inputs[0]
            elif step.op_type in ("Add", "Mul"):
                found["offsets" if step.op_type == "Add" else "multipliers"] = _before_cast(graph, step)
            elif step.op_type not in _HANDING_ON:
                return {}
            step = graph.producer(step, 0)
        names = {**found, "scales": scales}
        wanted = ("codes", "multipliers", "offsets", "scales")
        return {name: names[name] for name in wanted} if names.keys() == set(wanted) else {}

    def tensor_names(self, graph: Graph, node: Node) -> set[str]:
        """See `Rule.tensor_names`."""
        return set(self.written_names(graph, node, 0).values())


def _packed(codes: Uint8Array, block_size: int) -> Uint8Array:
    """Codes [N, K] as [N, blocks, block / 2]."""
    n, k = codes.shape
    blocks = np.pad(codes, ((0, 0), (0, -k % block_size))).reshape(n, -1, 2, block_size // 2)
    return np.asarray(blocks[:, :, 0] | (blocks[:, :, 1] << BITS), np.uint8)


def _before_cast(graph: Graph, node: Node) -> str:
    """The second input of a node, or what is cast to it."""
    cast = graph.producer(node, 1)
    return node.inputs[1] if cast is None else cast.inputs[0]
