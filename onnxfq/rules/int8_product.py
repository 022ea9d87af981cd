"""MatMul, Gemm and Einsum with a constant weight → a product of int8, one scale for each row and each output.

    W [N, K] int8 → Transpose → DequantizeLinear(axis=1) → MatMul, between the nodes of `row_rounding`

Readers of ONNX that fuse nothing compute the same in floating point. The transposition is done when a session is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from onnxfq.arrays import Array
from onnxfq.errors import SchemeError
from onnxfq.graph import Constant, Fed, Graph, Node, NodeProto, TensorFile, make_node, several_nodes
from onnxfq.packing import at_block_size
from onnxfq.providers import ProviderName, facts
from onnxfq.quantized import STORED_TYPES, QuantizedWeight
from onnxfq.rules.block_grids import on_grid
from onnxfq.rules.kernel import Kernel, Speed
from onnxfq.rules.matmul_nbits_kernels import is_measured
from onnxfq.rules.product_rule import ProductRule
from onnxfq.rules.product_steps import added, bias_row, has_bias, linked, rank_before, steps_after, steps_before
from onnxfq.rules.row_rounding import OLDEST_OPSET, Place, rounded_product
from onnxfq.rules.rule import Probe, Tensors, TensorType, WrittenWeight
from onnxfq.rules.target import Target
from onnxfq.scheme import Scheme

_MIDDLE = np.uint8(128)  # between codes as solvers count them, from 0, and int8


class Int8Product(ProductRule):
    """Products of int8 with int8."""

    operator = "DequantizeLinear"
    domain = ""
    rounds_rows = True
    inputs: ClassVar[Mapping[str, int]] = {"W": 0, "scales": 1}
    probe_opset: ClassVar[int] = OLDEST_OPSET

    def opset(self, kernel: Kernel) -> int:
        """See `Rule.opset`."""
        return OLDEST_OPSET

    def kernel(self, provider: ProviderName, scheme: Scheme, target: Target) -> Kernel:
        """See `Rule.kernel`: there is one, whose blocks are whole rows."""
        if not facts(provider).multiplies_int8:
            raise SchemeError(
                f"ONNX Runtime has no products of int8 on {provider} (got {scheme}). "
                'Use `format="matmulnbits"` there, or `provider="cpu"`.'
            )
        speed: Speed = "fast" if is_measured(provider) else "unknown"
        return Kernel(provider, scheme.bits, target.k, scheme.symmetric, 4, target.scale_type, speed)

    def layout(self, n: int, k: int, kernel: Kernel) -> dict[str, TensorType]:
        """See `Rule.layout`; scales are float32, whatever the activations are."""
        return {"W": ((n, k), np.dtype(np.int8)), "scales": ((n,), np.dtype(np.float32))}

    def pack(self, q: QuantizedWeight, kernel: Kernel) -> dict[str, Array]:
        """See `Rule.pack`."""
        at = at_block_size(q, kernel.block_size)
        return {"W": (at.codes ^ _MIDDLE).view(np.int8), "scales": np.ascontiguousarray(at.scale[:, 0])}

    def unpack(self, tensors: Tensors, kernel: Kernel, k: int) -> QuantizedWeight:
        """See `Rule.unpack`."""
        codes = np.ascontiguousarray(tensors["W"]).view(np.uint8) ^ _MIDDLE
        return on_grid(codes, tensors["scales"].reshape(-1, 1), None, kernel)

    def attributes(self, n: int, k: int, kernel: Kernel) -> dict[str, int]:
        """See `Rule.attributes`."""
        return {"axis": 1}

    def rewrite(self, graph: Graph, weights: Sequence[WrittenWeight], tensor_file: TensorFile) -> None:
        """See `Rule.rewrite`; nodes that round the same activations become one (`merge_equal`)."""
        (weight,) = weights
        target, node = weight.target, weight.target.node
        fed, before = steps_before(graph, target, tensor_file)
        steps = steps_after(graph, target, tensor_file)
        if has_bias(graph, target):
            row = bias_row(graph, target, weight.shift, tensor_file)
            steps.append(("product", added(graph, target, row, tensor_file)))
        product, after = linked(graph, steps, node.outputs[0])
        place = Place.beside(graph, node)
        values, dequantized = self.weight_nodes(place, weight.names, weight.kernel, target.k)
        rank = rank_before(graph, target)
        rounding, products = rounded_product(
            place, fed, dequantized, product, target.scale_type, rank, weight.input_scale
        )
        nodes = [*before, *rounding, *values, *products, *after]
        graph.replace(node, nodes, keeps_name=products[0], mergeable=[*rounding, *values[:-1]])

    def weight_nodes(
        self, place: Place, names: Mapping[str, str], kernel: Kernel, k: int
    ) -> tuple[list[NodeProto], str]:
        """From a weight's tensors to [K, N] in floating point: the nodes, and the name of what they make."""
        turned, value = place.fresh(f"{names['W']}_turned"), place.fresh(f"{names['W']}_values")
        return [
            make_node("Transpose", [names["W"]], [turned], perm=[1, 0]),
            make_node(self.operator, [turned, names["scales"]], [value], axis=1),
        ], value

    def written_names(self, graph: Graph, node: Node, slot: int) -> dict[str, str]:
        """See `Rule.written_names`: the weight stands behind its transposition."""
        names = super().written_names(graph, node, slot)
        weight = graph.constant(node, 0)
        return {**names, "W": weight.leaf.name} if isinstance(weight, Constant) else names

    def rounded_block(self, kernel: Kernel, k: int) -> int | None:
        """See `Rule.rounded_block`: a row has one scale."""
        return k

    def probe(self, tensors: Tensors, kernel: Kernel, n: int, k: int) -> Probe:
        """See `Rule.probe`: activations times the weight."""
        constants: dict[str, Array] = dict(tensors)
        taken = dict.fromkeys(["A", "Y", *constants])

        def fresh(base: str) -> str:
            name = base if base not in taken else f"{base}_{len(taken)}"
            taken[name] = None
            return name

        def constant(name: str, value: Array) -> str:
            constants[name] = value
            return name

        place = Place(self.probe_opset, fresh, constant)
        values, dequantized = self.weight_nodes(place, {name: name for name in tensors}, kernel, k)
        rounding, products = rounded_product(place, "A", dequantized, "Y", kernel.activation_type, 2)
        dtype = STORED_TYPES[kernel.activation_type]
        model = several_nodes(
            [*values, *rounding, *products], {"A": Fed(dtype, ("rows", k))}, constants, "Y", place.opset
        )
        return self.probe_of(model, tensors, kernel, k, rounds=True)
