"""com.microsoft.MoE, all experts of a layer in one node → com.microsoft.QMoE.

    MoE(x, router, fc1, bias1, fc2, bias2)  → QMoE(x, router, quantized fc1, …, bias1, quantized fc2, …, bias2)
    … where routing weights are not normalized  → Softmax(router) → QMoE(…, router_weights)

Weights are [experts, rows, ceil(columns * bits / 8)]: codes along the columns, low bits first inside a byte; scales and
zero points have a block of columns each, and blocks must divide both sizes of an expert.

Source: com.microsoft.QMoE in ONNX Runtime's ContribOperators.md; bits, blocks, types and activations that really run
were tried with ONNX Runtime 1.31.1 on CPU, where normalize_routing_weights=0 is not heeded unless router_weights are
given, and where 2 and 8 bits are computed with activations of int8 at every accuracy level.

One thread of a Xeon with VNNI, against float, 8 experts of 512 x 1024 and back with 1, 16 and 128 tokens: 4 bits in
blocks of 32 are 3.1, 3.8 and 1.5 times as fast, 8 bits in blocks of 128 2.7, 3.6 and 2.3 times, 2 bits in blocks of 32
3.8, 3.4 and 1.1 times; 2 bits in blocks of 16 .1, .2 and .3 times, one scale for a whole row .8, .9 and .9 times.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from onnxfq.arrays import Array, Float64Array
from onnxfq.errors import SchemeError
from onnxfq.graph import Fed, Graph, Node, TensorFile, make_node, single_node
from onnxfq.packing import at_block_size, pack_rows, unpack_rows
from onnxfq.providers import ProviderName, facts
from onnxfq.quantized import STORED_TYPES, QuantizedWeight
from onnxfq.rules.block_grids import grid_layout, pack_grid, with_grid
from onnxfq.rules.kernel import Kernel, Speed
from onnxfq.rules.moe_weights import find_experts
from onnxfq.rules.rule import (
    MOST_SHIFT,
    PROBE_ROWS,
    TOLERANCE_HALF,
    Probe,
    Rule,
    Tensors,
    TensorType,
    WrittenWeight,
    stacked_shape,
)
from onnxfq.rules.target import Skip, Target
from onnxfq.scheme import BLOCK_SIZES, Scheme

_NAMES = ("weights", "scales", "zero_points")
_POSITIONS = ((2, 3, 11), (5, 6, 12))  # of the tensors of both weights among the inputs
_ROUTER, _ROUTER_WEIGHTS, _BIASES = 1, 14, {4: 3, 7: 5}  # the node's input that each bias is
_PROBED = {"k": 1, "activation_type": "identity", "normalize_routing_weights": 1}
_ROUNDING_BITS = (2, 8)  # whose kernels round activations to int8 at every accuracy level


class QMoE(Rule):
    """Experts that one node chooses and computes, in blocks of 2, 4 or 8 bits."""

    operator = "QMoE"
    kind = "weights"
    replaces = ("MoE",)
    slots = len(_POSITIONS)
    inputs: ClassVar[Mapping[str, int]] = dict(zip(_NAMES, _POSITIONS[0], strict=True))

    def positions(self, slot: int) -> Mapping[str, int]:
        """See `Rule.positions`."""
        return dict(zip(_NAMES, _POSITIONS[slot], strict=True))

    def match(self, graph: Graph, node: Node) -> Sequence[Target] | Skip | None:
        """See `Rule.match`."""
        return find_experts(graph, node)

    def kernel(self, provider: ProviderName, scheme: Scheme, target: Target) -> Kernel:
        """See `Rule.kernel`; blocks are made small enough to divide both sizes of an expert."""
        bits, scale_type = scheme.bits, target.scale_type
        if not facts(provider).fuses_layers or scale_type == "bfloat16":
            raise SchemeError(
                f"QMoE is offered on cpu in float32 and float16 (got {scale_type} on {provider}). Wanted another "
                "provider or type: leave such nodes alone with `exclude=NAME`."
            )
        if bits in _ROUNDING_BITS and scheme.activations == "float":
            raise SchemeError(
                f"QMoE rounds activations to int8 where weights have {bits} bits (got {scheme}). Use "
                '`activations="int8"`, or 4 bits.'
            )
        wanted = scheme.columns_per_block(max(BLOCK_SIZES))
        fitting = [size for size in BLOCK_SIZES if size <= wanted and not target.divided % size]
        speed, note = _speed(bits, max(fitting))
        level = 4 if scheme.activations == "int8" else 0
        return Kernel(provider, bits, max(fitting), scheme.symmetric, level, scale_type, speed, note)

    def nearest_fast(self, provider: ProviderName, scheme: Scheme, target: Target) -> Scheme | None:
        """See `Rule.nearest_fast`."""
        return replace(scheme, bits=4)

    def layout(self, n: int, k: int, kernel: Kernel) -> dict[str, TensorType]:
        """See `Rule.layout`; `n` counts the rows of all experts."""
        return {"weights": ((n, -(-k * kernel.bits // 8)), np.dtype(np.uint8)), **grid_layout(n, k, kernel)}

    def pack(self, q: QuantizedWeight, kernel: Kernel) -> dict[str, Array]:
        """See `Rule.pack`."""
        at = at_block_size(q, kernel.block_size)
        width = -(-at.shape[1] * at.bits // 8)
        return {"weights": pack_rows(at.codes, at.zero_point, kernel.block_size, at.bits, width), **pack_grid(at)}

    def unpack(self, tensors: Tensors, kernel: Kernel, k: int) -> QuantizedWeight:
        """See `Rule.unpack`."""
        return with_grid(unpack_rows(tensors["weights"], kernel.bits, k), tensors, kernel)

    def attributes(self, n: int, k: int, kernel: Kernel) -> dict[str, int]:
        """See `Rule.attributes`."""
        found = {"expert_weight_bits": kernel.bits, "block_size": kernel.block_size}
        return {**found, "accuracy_level": kernel.accuracy_level, "weights_prepacked": 0}

    def node_attributes(self, target: Target, kernel: Kernel) -> dict[str, Any]:
        """See `Rule.node_attributes`: how tokens are routed and what the experts compute stays as it was."""
        return {**target.node.attributes, **self.attributes(target.n, target.k, kernel)}

    def rewrite(self, graph: Graph, weights: Sequence[WrittenWeight], tensor_file: TensorFile) -> None:
        """See `Rule.rewrite`."""
        first, node = weights[0], weights[0].target.node
        inputs = [*node.inputs[: _ROUTER + 1], *[""] * (_ROUTER_WEIGHTS - _ROUTER)]
        for weight in weights:
            for name, position in self.positions(weight.target.slot).items():
                inputs[position] = weight.names.get(name, "")
                if inputs[position]:
                    graph.set_dimensions(inputs[position], stacked_shape(self, weight, name))
        for position, index in _BIASES.items():
            inputs[position] = node.inputs[index] if len(node.inputs) > index else ""
        before = []
        if not node.integer("normalize_routing_weights", 0):
            inputs[_ROUTER_WEIGHTS] = graph.edits.fresh_name(f"{node.inputs[_ROUTER]}_weights")
            before = [make_node("Softmax", [node.inputs[_ROUTER]], [inputs[_ROUTER_WEIGHTS]], axis=-1)]
        while not inputs[-1]:
            inputs = inputs[:-1]
        attributes = self.node_attributes(first.target, first.kernel)
        quantized = make_node(self.operator, inputs, [node.outputs[0]], domain=self.domain, **attributes)
        graph.replace(node, [*before, quantized], keeps_name=quantized)

    def rounded_block(self, kernel: Kernel, k: int) -> int | None:
        """See `Rule.rounded_block`."""
        return kernel.block_size if kernel.accuracy_level == 4 else None

    def probe(self, tensors: Tensors, kernel: Kernel, n: int, k: int) -> Probe:
        """See `Rule.probe`: the rows are the first layer of one expert, whose second layer is made up.

        Both sizes are filled up to whole blocks, with what counts for nothing.
        """
        block, dtype = kernel.block_size, STORED_TYPES[kernel.activation_type]
        hidden, inner = -(-k // block) * block, -(-n // block) * block
        known = self.unpack(tensors, kernel, k).dequantize().astype(np.float64)
        second = _made_up(hidden, inner, n, kernel)
        x = np.zeros((PROBE_ROWS, hidden))
        x[:, :k] = np.random.default_rng(0).standard_normal((PROBE_ROWS, k)) * _scale_for(known)
        x = x.astype(dtype)
        packed = [_filled(tensors, self.layout(inner, hidden, kernel)), self.pack(second, kernel)]
        held = {position: packed[slot].get(name) for slot in (0, 1) for name, position in self.positions(slot).items()}
        last = max(position for position, array in held.items() if array is not None)
        inputs: dict[str, Fed | Array | None] = {"x": Fed(dtype, ("rows", hidden)), "router": Fed(dtype, ("rows", 1))}
        for position in range(len(inputs), last + 1):
            array = held.get(position)
            inputs[f"input_{position}"] = None if array is None else array[np.newaxis]
        attributes = {**self.attributes(n, k, kernel), **_PROBED}
        model = single_node(self.operator, self.domain, inputs, attributes, output=dtype)
        expected = x[:, :k].astype(np.float64) @ known.T @ second.dequantize()[:, :n].astype(np.float64).T
        feed = {"x": x, "router": np.ones((PROBE_ROWS, 1), dtype)}
        return Probe(model, feed, expected, TOLERANCE_HALF)  # both layers may round


def _speed(bits: int, block_size: int) -> tuple[Speed, str]:
    """Whether a kernel is faster than float; see the top of this file."""
    if bits == min(_ROUNDING_BITS) and block_size == min(BLOCK_SIZES):
        return "slow", "QMoE of 2 bits in blocks of 16 takes the weights apart for every token (.1 to .3 times as fast)"
    return "fast", ""


def _filled(tensors: Tensors, layout: Mapping[str, TensorType]) -> dict[str, Array]:
    """With rows whose scales are 0, and columns for inputs of 0."""
    found = {}
    for name, array in tensors.items():
        shape, dtype = layout[name]
        found[name] = np.zeros(shape, dtype)
        found[name][: array.shape[0], : array.shape[1]] = array
    return found


def _made_up(rows: int, columns: int, used: int, kernel: Kernel) -> QuantizedWeight:
    """Any weight that takes no notice of inputs beyond those that are used."""
    rng, shape = np.random.default_rng(1), (rows, columns // kernel.block_size)
    middle = 1 << (kernel.bits - 1)
    codes = rng.integers(0, 1 << kernel.bits, (rows, columns), np.uint8)
    codes[:, used:] = middle
    return QuantizedWeight(
        codes=codes,
        scale=np.full(shape, 2.0**-kernel.bits, np.float32),
        zero_point=np.full(shape, middle, np.uint8),
        bits=kernel.bits,
        block_size=kernel.block_size,
        scale_type=kernel.activation_type,
        symmetric=kernel.symmetric,
    )


def _scale_for(weight: Float64Array) -> float:
    """A power of two by which inputs are multiplied, so that products with them are about 1 where that is possible."""
    largest = float(np.abs(weight).sum(axis=1).max(initial=0.0)) / max(1.0, math.sqrt(weight.shape[1]))
    return float(2.0 ** -np.clip(np.rint(np.log2(max(largest, 1e-30))), -MOST_SHIFT, MOST_SHIFT))
